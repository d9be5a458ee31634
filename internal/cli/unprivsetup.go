// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/atomicfile"
)

// The ranges of subordinate ids: how many ids a user gets, and the first one that
// may be given (SUB_UID_MIN, login.defs(5)).
const (
	subordinateIDs   = 65536
	firstSubordinate = 100000
)

type unprivSetupOptions struct{ uid, gid, username string }

func (a *app) unprivSetupCommand() *cobra.Command {
	var o unprivSetupOptions
	cmd := &cobra.Command{
		Use:   "unpriv-setup",
		Short: "as root: give a user subordinate ids and the project's directories",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.unprivSetup(o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.uid, "uid", os.Getenv("SUDO_UID"), "user id (default: of who runs sudo)")
	f.StringVar(&o.gid, "gid", os.Getenv("SUDO_GID"), "group id (default: of who runs sudo)")
	f.StringVar(&o.username, "username", os.Getenv("SUDO_USER"), "user name (default: of who runs sudo)")
	return cmd
}

// check refuses what would make a wrong line in a file of the system.
func (o unprivSetupOptions) check() (uid, gid int, err error) {
	for _, v := range []struct{ flag, value string }{{"uid", o.uid}, {"gid", o.gid}, {"username", o.username}} {
		if v.value == "" {
			return 0, 0, fmt.Errorf("please specify --%s or run unpriv-setup with sudo", v.flag)
		}
	}
	u, err := strconv.ParseUint(o.uid, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("--uid %q: it must be a number", o.uid)
	}
	g, err := strconv.ParseUint(o.gid, 10, 31)
	if err != nil {
		return 0, 0, fmt.Errorf("--gid %q: it must be a number", o.gid)
	}
	if u == 0 {
		return 0, 0, errors.New("root needs no setup: choose an ordinary user with --uid, --gid and --username")
	}
	if strings.ContainsAny(o.username, ": \t\r\n#") || strings.HasPrefix(o.username, "-") {
		return 0, 0, fmt.Errorf("--username %q: this cannot be a user name", o.username)
	}
	// A user who is not in /etc/passwd may be known elsewhere.
	if known, err := user.Lookup(o.username); err == nil && known.Uid != o.uid {
		return 0, 0, fmt.Errorf("user %s has the id %s and not %s: check --uid and --username", o.username, known.Uid, o.uid)
	}
	return int(u), int(g), nil
}

func (a *app) unprivSetup(o unprivSetupOptions) error {
	uid, gid, err := o.check()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("unpriv-setup changes files of the system: run it as root, such as with sudo")
	}
	if _, err := os.Lstat(a.settings.stackerDir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stacker dir %s already exists, aborting setup", a.settings.stackerDir)
	}
	for _, f := range []struct {
		path string
		own  int
	}{{"/etc/subuid", uid}, {"/etc/subgid", gid}} {
		line, err := giveIDs(f.path, o.username, uid, f.own)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.std.Out, "%s: %s\n", f.path, line)
	}
	for _, dir := range []string{a.settings.stackerDir, a.settings.rootsDir} {
		if err := giveDir(dir, uid, gid); err != nil {
			return err
		}
	}
	for _, helper := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(helper); err != nil {
			fmt.Fprintf(a.std.Err, "warning: no %s: install package uidmap (Debian, Ubuntu), shadow-utils (Fedora) or shadow-uidmap (Alpine)\n", helper)
		}
	}
	_, err = fmt.Fprintf(a.std.Out, "stacker check, run as %s, tells whether everything works\n", o.username)
	return err
}

// giveIDs gives a user a range of ids in /etc/subuid or /etc/subgid (subuid(5))
// unless the user has one there, and returns the user's line. own is the user's
// own id of that kind.
func giveIDs(path, name string, uid, own int) (line string, err error) {
	unlock, err := lockAccounts(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	data, mode, err := readAccounts(path)
	if err != nil {
		return "", err
	}
	text := string(data)
	for l := range strings.Lines(text) {
		if who, _, ok := strings.Cut(l, ":"); ok && (who == name || who == strconv.Itoa(uid)) {
			return strings.TrimSpace(l) + " (it was there)", nil
		}
	}
	start, ok := nextRange(text, uint64(own))
	if !ok {
		return "", fmt.Errorf("%s: there are no %d ids left for %s", path, subordinateIDs, name)
	}
	line = fmt.Sprintf("%s:%d:%d", name, start, subordinateIDs)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return line, atomicfile.Write(path, []byte(text+line+"\n"), mode, atomicfile.Sync)
}

func readAccounts(path string) (data []byte, mode fs.FileMode, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o644, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file: add the ids where the system is configured", path)
	}
	data, err = os.ReadFile(path)
	return data, info.Mode().Perm(), err
}

// lockAccounts keeps useradd and usermod from changing the file: their lock is a
// file beside it that has the number of a process.
func lockAccounts(path string) (unlock func() error, err error) {
	lock := path + ".lock"
	f, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("another program changes %s: try again, or remove %s if it was left behind", path, lock)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	_, err = fmt.Fprintf(f, "%d\x00", os.Getpid())
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), os.Remove(lock))
	}
	return func() error { return os.Remove(lock) }, nil
}

// nextRange finds the lowest ids that nobody has and that are not the user's own.
func nextRange(text string, own uint64) (start uint64, ok bool) {
	type span struct{ first, end uint64 }
	taken := []span{{own, own + 1}}
	for l := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		n, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil {
			taken = append(taken, span{first, first + n})
		}
	}
	slices.SortFunc(taken, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	start = firstSubordinate
	for _, t := range taken {
		if t.first < start+subordinateIDs && start < t.end {
			start = t.end
		}
	}
	return start, start+subordinateIDs <= math.MaxUint32
}

// giveDir makes a directory and gives it to a user; one that is there stays as it
// is. Whoever owns the directory above may put something else in its place: what
// is given away must be empty.
func giveDir(dir string, uid, gid int) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer f.Close()
	if names, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("directory %s is not the new one, it has %v: it is left to its owner", dir, names)
	}
	if err := f.Chmod(0o755); err != nil { // whatever the umask is
		return fmt.Errorf("make directory: %w", err)
	}
	if err := f.Chown(uid, gid); err != nil {
		return fmt.Errorf("give directory to user %d: %w", uid, err)
	}
	return nil
}
