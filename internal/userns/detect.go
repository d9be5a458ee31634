// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// wantIDs is how many ids a namespace should have: those that images use, with
	// 65534 (nobody) among them.
	wantIDs = 65536
	// rootStart is the first of root's ids where /etc/subuid gives it none: far
	// from what user databases and the tools for subordinate ids hand out.
	rootStart = 0x70000000
)

// Host is what Detect looks at.
type Host struct {
	UID, GID int
	User     string   // login name; empty: looked up in /etc/passwd
	Files    fs.FS    // the machine's files
	Path     []string // directories with helper programs
	// FileCaps tells whether a program (its absolute path) has file capabilities.
	FileCaps func(path string) bool
	// Refused tells whether a filter of the container around refuses user namespaces;
	// nil: it does not.
	Refused func() error
	// Want is the level to take; empty: the best that there is.
	Want Level
}

// Local is the machine that this process runs on. path is the value of PATH.
func Local(path string) Host {
	return Host{
		UID: os.Geteuid(), GID: os.Getegid(),
		Files: os.DirFS("/"),
		// Where distributions have them, whatever PATH says.
		Path: append(strings.Split(path, ":"), "/usr/bin", "/bin", "/usr/local/bin"),
		FileCaps: func(path string) bool {
			var b [64]byte
			n, err := unix.Getxattr(path, "security.capability", b[:])
			return err == nil && n > 0
		},
		Refused: tryUnshare,
	}
}

// tryUnshare calls unshare(2) in a way that cannot succeed: CLONE_PTRACE is not a flag of it,
// which gives EINVAL. Another error comes from a filter of system calls.
func tryUnshare() error {
	if err := unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_PTRACE); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// ErrUnavailable says that steps cannot run here, or not at the level that was asked for.
var ErrUnavailable = errors.New("no user namespace can be made")

// Detect finds the best level that can be had on h. It only reads
// files. The error wraps ErrUnavailable and says what to do. A level that is wanted
// and cannot be had is an error too.
func Detect(h Host) (Plan, error) {
	if h.Want.Bare() {
		return h.planBare(h.Want)
	}
	p, err := h.detect()
	if err != nil || h.Want == "" || h.Want == p.Level {
		return p, err
	}
	for _, r := range p.Reasons {
		if r.Level == h.Want {
			return p, fmt.Errorf("%w: level %s cannot be had: %s; %s", ErrUnavailable, h.Want, r.What, r.Remedy)
		}
	}
	if !slices.Contains(Levels(), h.Want) {
		return p, fmt.Errorf("%w: level %q is not known: there are %s", ErrUnavailable, h.Want, LevelNames())
	}
	if h.UID == 0 {
		return p, fmt.Errorf("%w: level %s is for ordinary users: root has level %s", ErrUnavailable, h.Want, p.Level)
	}
	p = Plan{Reasons: p.Reasons, OuterProc: p.OuterProc}
	p.reason(LevelSubID, "level single was asked for", "")
	h.planSingle(&p)
	return p, nil
}

func (h Host) detect() (Plan, error) {
	if why := h.refused(); why != nil {
		return h.withoutNamespace(*why)
	}
	status := h.read("proc/self/status")
	uids, gids := h.current("proc/self/uid_map"), h.current("proc/self/gid_map")
	p := Plan{OuterProc: procCovered(string(h.read("proc/self/mountinfo")))}
	if h.UID == 0 {
		if why := missing(status, rootCaps[:]); why != "" {
			p.reason(LevelRoot, "root has no "+why+" here", "give the container "+wantedCaps)
		} else if h.planRoot(&p, uids, gids, status) {
			return p, nil
		}
	} else {
		p.reason(LevelRoot, "the user is not root", "none is needed: the next level does the same")
	}
	if h.planSubID(&p, status, uids, gids) {
		return p, nil
	}
	if h.UID == 0 && !capable(status, unix.CAP_SETFCAP) {
		return h.withoutOwnID(p.Reasons)
	}
	h.planSingle(&p)
	return p, nil
}

// procCovered tells whether something is mounted below /proc, in the text of a mountinfo
// (proc_pid_mountinfo(5)). The kernel lets nobody mount a new proc there, except where the place
// is an empty directory, as that of binfmt_misc is (mount_too_revealing() in fs/namespace.c).
func procCovered(mountinfo string) bool {
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && f[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
	}
	return false
}

// planSingle maps the user's own ids, which everybody may.
func (h Host) planSingle(p *Plan) {
	p.Level = LevelSingle
	p.UIDs = []IDMap{{0, uint32(h.UID), 1}}
	p.GIDs = []IDMap{{0, uint32(h.GID), 1}}
	p.SetgroupsDeny = true
}

func (p *Plan) reason(l Level, what, remedy string) {
	p.Reasons = append(p.Reasons, Reason{l, what, remedy})
}

// refused tells what forbids user namespaces here: a switch of the machine, or a filter
// around. Nil: nothing does.
func (h Host) refused() *obstacle {
	if h.sysctl("user/max_user_namespaces") == "0" {
		return &obstacle{what: "user.max_user_namespaces is 0", remedy: "as root: sysctl -w user.max_user_namespaces=15000"}
	}
	if h.UID != 0 {
		if o := h.forbidden(); o != nil {
			return o
		}
	}
	if h.Refused != nil {
		if err := h.Refused(); err != nil {
			return filtered(err)
		}
	}
	return nil
}

// forbidden looks at the switches that hold for users who are not root.
func (h Host) forbidden() *obstacle {
	if h.sysctl("kernel/unprivileged_userns_clone") == "0" {
		return &obstacle{what: "kernel.unprivileged_userns_clone is 0", remedy: "as root: sysctl -w kernel.unprivileged_userns_clone=1"}
	}
	profile := strings.TrimRight(string(h.read("proc/self/attr/current")), "\x00\n")
	if h.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && (profile == "" || profile == "unconfined") {
		return &obstacle{
			what: "AppArmor allows them to programs with a profile only",
			remedy: "as root, install a profile for this program with the rule \"userns,\", " +
				"or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
		}
	}
	return nil
}

// obstacle is what keeps from a user namespace. It is an error that wraps ErrUnavailable.
type obstacle struct {
	what, remedy string
	err          error // nil: nothing was tried
}

// filtered is the obstacle where the container around forbids user namespaces.
func filtered(err error) *obstacle {
	return &obstacle{
		what: "the container around refuses user namespaces", err: err,
		remedy: "allow them with its seccomp profile (Kubernetes: no seccompProfile, or Localhost with that of docs/kubernetes.md; " +
			"docker run --security-opt seccomp=unconfined)",
	}
}

// Error implements error.
func (o *obstacle) Error() string {
	text := o.what
	if o.err != nil {
		text = o.err.Error() + ": " + text
	}
	return ErrUnavailable.Error() + ": " + text + "; " + o.remedy
}

// Unwrap gives ErrUnavailable and the error of the kernel.
func (o *obstacle) Unwrap() []error {
	if o.err == nil {
		return []error{ErrUnavailable}
	}
	return []error{ErrUnavailable, o.err}
}

func (h Host) sysctl(name string) string {
	return strings.TrimSpace(string(h.read("proc/sys/" + name)))
}

// read gives a file's content; what cannot be read is empty.
func (h Host) read(name string) []byte {
	b, err := fs.ReadFile(h.Files, name)
	if err != nil {
		return nil
	}
	return b
}

// current reads the id map that this process lives in.
func (h Host) current(name string) []IDMap {
	maps, err := parseMap(string(h.read(name)))
	if err != nil || len(maps) == 0 {
		return []IDMap{{0, 0, math.MaxUint32}} // a kernel without the file has no namespaces to be in
	}
	return maps
}

// parseMap reads a uid_map or gid_map.
func parseMap(text string) ([]IDMap, error) {
	var out []IDMap
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("parse id map: line %q has %d fields, not 3", line, len(f))
		}
		var n [3]uint32
		for i, s := range f {
			v, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("parse id map: %w", err)
			}
			n[i] = uint32(v)
		}
		out = append(out, IDMap{n[0], n[1], n[2]})
	}
	return out, nil
}

const wantedCaps = "CAP_SETUID, CAP_SETGID, CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_SETFCAP"

// capability is one, with its name.
type capability struct {
	bit  int
	name string
}

// rootCaps are those with which root maps ids by itself; a root in a container may.
var rootCaps = [...]capability{
	{unix.CAP_SETUID, "CAP_SETUID"}, {unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"}, // for directories of the mapped ids
}

// missing names the first of caps that this process has not; empty: it has all.
func missing(status []byte, caps []capability) string {
	for _, c := range caps {
		if !capable(status, c.bit) {
			return c.name
		}
	}
	return ""
}

// capable tells whether this process has a capability. One that cannot find out has.
func capable(status []byte, bit int) bool {
	caps, err := strconv.ParseUint(statusField(status, "CapEff"), 16, 64)
	return err != nil || caps&(1<<bit) != 0
}

func statusField(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// planRoot takes a range of ids for root, never root's own.
func (h Host) planRoot(p *Plan, uids, gids []IDMap, status []byte) bool {
	// Without the right to mount, the way to the state directory is its path.
	p.ByPath = !capable(status, unix.CAP_SYS_ADMIN)
	u, okU := h.rootRange("etc/subuid", uids)
	g, okG := h.rootRange("etc/subgid", gids)
	if okU && okG {
		p.Level, p.UIDs, p.GIDs = LevelRoot, u, g
		return true
	}
	// Since Linux 5.12 who maps the id 0 needs CAP_SETFCAP (user_namespaces(7)).
	withZero := capable(status, unix.CAP_SETFCAP)
	u, g = nested(uids, withZero), nested(gids, withZero)
	if count(u) <= 1 || count(g) <= 1 {
		p.reason(LevelRoot, "only one id is mapped in the container around this process", "give that container a range of at least 65536 ids")
		return false
	}
	p.Level, p.UIDs, p.GIDs = LevelRoot, u, g
	p.ByPath = p.ByPath && u[0].Outside != 0
	if n := min(count(u), count(g)); n < wantIDs {
		p.reason(LevelRoot, fmt.Sprintf("the container around this process has only %d ids for this", n), "give that container 65537 ids or more")
	}
	return true
}

// rootRange is the range that /etc/subuid gives to "stacker" or "root", else the
// fixed one, if the ids exist here.
func (h Host) rootRange(file string, current []IDMap) ([]IDMap, bool) {
	text := string(h.read(file))
	for _, name := range []string{"stacker", "root"} {
		for _, r := range parseSub(text, name, "") {
			if r.Count >= wantIDs && covers(current, r.Outside) {
				return []IDMap{{0, r.Outside, wantIDs}}, true
			}
		}
	}
	if covers(current, rootStart) {
		return []IDMap{{0, rootStart, wantIDs}}, true
	}
	return nil, false
}

// covers tells whether wantIDs ids from start exist in this process's namespace.
func covers(current []IDMap, start uint32) bool { return start > 0 && exist(current, start, wantIDs) }

// exist tells whether ids exist in this process's namespace.
func exist(current []IDMap, start, n uint32) bool {
	for _, m := range current {
		if start >= m.Inside && uint64(start)+uint64(n) <= uint64(m.Inside)+uint64(m.Count) {
			return true
		}
	}
	return false
}

// nested maps to the ids that exist here: 0 among them only if it is not the
// machine's own, and withZero.
func nested(current []IDMap, withZero bool) []IDMap {
	var out []IDMap
	next := uint32(0)
	for _, m := range current {
		if m.Inside == 0 && (m.Outside == 0 || !withZero) && m.Count > 0 {
			m.Inside, m.Count = 1, m.Count-1
		}
		n := min(m.Count, wantIDs-next)
		if n == 0 {
			continue
		}
		out = append(out, IDMap{next, m.Inside, n})
		next += n
	}
	return out
}

func count(maps []IDMap) (n uint64) {
	for _, m := range maps {
		n += uint64(m.Count)
	}
	return n
}
