// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// box is a container in which stacker runs: what a security context of Kubernetes,
// or the options of podman and docker, come down to.
type box struct {
	userns   bool // a user namespace of its own, 65536 ids from boxIDs
	uid      int
	caps     []string // of a process of root, without "CAP_"
	noNew    bool     // allowPrivilegeEscalation: false
	unmasked bool     // procMount: Unmasked
	seccomp  any      // runtime-spec's form; nil: Unconfined
	host     string   // its name; empty: "box"
}

// boxIDs is the first id outside of a box with a user namespace.
const boxIDs = 1200000000

// dockerCaps are those of a container of docker and of containerd.
var dockerCaps = []string{
	"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
	"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}

// object is a JSON object.
type object = map[string]any

// stackerImage builds examples/stacker-image and gives its files as a tar archive.
func stackerImage(t *testing.T, buildFile string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/stacker-image")); err != nil {
		t.Fatal(err)
	}
	imageFiles(t, dir)
	cmd := exec.Command(filepath.Join(os.Getenv(homeVariable), "bin", "stacker"), "build", "-f", buildFile, "-o", "type=tar,dest=image.tar")
	if buildFile == "Dockerfile" {
		cmd.Args = append(cmd.Args, ".")
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "data"), "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the image of stacker: %v\n%s", err, out)
	}
	return filepath.Join(dir, "image.tar")
}

// boxed runs stacker in a box of the image, a tar archive, in the directory /work, which is dir
// outside. The state is in a file system in memory.
func boxed(t *testing.T, image string, b box, dir string, args ...string) (string, error) {
	t.Helper()
	bundle := t.TempDir()
	root := filepath.Join(bundle, "rootfs")
	for _, d := range []string{"proc", "sys", "dev", "src"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("tar", "-C", root, "-xpf", image).CombinedOutput(); err != nil {
		t.Fatalf("unpack the image of stacker: %v\n%s", err, out)
	}
	owner := b.uid
	if b.userns {
		owner += boxIDs
	}
	if b.userns {
		give(t, root, boxIDs)
	}
	give(t, dir, owner)
	for p := bundle; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config, err := json.Marshal(b.config(dir, args))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("runc", "--root", filepath.Join(bundle, "runc"), "run", "--bundle", bundle, "stacker-"+filepath.Base(filepath.Dir(bundle))+"-"+filepath.Base(bundle))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func give(t *testing.T, dir string, id int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, id, id)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// config is the container in the words of the OCI runtime specification.
func (b box) config(dir string, args []string) object {
	var caps []string
	for _, c := range b.caps {
		caps = append(caps, "CAP_"+c)
	}
	sets := object{"bounding": caps}
	if b.uid == 0 {
		sets["effective"], sets["permitted"] = caps, caps
	}
	quiet := []string{"nosuid", "noexec", "nodev"}
	linux := object{"namespaces": namespaces(b.userns), "resources": object{"devices": []object{{"allow": false, "access": "rwm"}}}}
	if b.userns {
		ids := []object{{"containerID": 0, "hostID": boxIDs, "size": 65536}}
		linux["uidMappings"], linux["gidMappings"] = ids, ids
	}
	if !b.unmasked {
		linux["maskedPaths"] = []string{
			"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/proc/interrupts",
		}
		linux["readonlyPaths"] = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if b.seccomp != nil {
		linux["seccomp"] = b.seccomp
	}
	return object{
		"ociVersion": "1.0.2", "hostname": cmp.Or(b.host, "box"), "root": object{"path": "rootfs"}, "linux": linux,
		"process": object{
			"user": object{"uid": b.uid, "gid": b.uid}, "args": append([]string{"/usr/bin/stacker"}, args...), "cwd": "/work",
			"env":          []string{"PATH=/usr/bin:/bin", "HOME=/work", "XDG_DATA_HOME=/state", "SOURCE_DATE_EPOCH=1700000000"},
			"capabilities": sets, "noNewPrivileges": b.noNew,
		},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": append(quiet, "mode=1777")},
			{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": append(quiet, "ro")},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmp", "options": []string{"mode=1777"}},
			{"destination": "/state", "type": "tmpfs", "source": "state", "options": []string{"mode=1777"}},
			{"destination": "/work", "type": "bind", "source": dir, "options": []string{"rbind", "rw"}},
			{"destination": "/src", "type": "bind", "source": dir, "options": []string{"rbind", "ro"}},
		},
	}
}

func namespaces(user bool) []object {
	all := []object{{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}
	if user {
		all = append(all, object{"type": "user"})
	}
	return all
}

// podmanSeccomp is the profile of podman, as the Debian package has it, for a container with caps;
// dockerSeccomp what of it docker's and containerd's default profile allows, too: neither
// namespaces nor mounts.
func podmanSeccomp(t *testing.T, caps []string) object { return seccompProfile(t, caps, nil) }

// more is refused beside these.
func dockerSeccomp(t *testing.T, caps []string, more ...string) object {
	return seccompProfile(t, caps, append([]string{
		"add_key", "bpf", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "io_uring_enter", "io_uring_register",
		"io_uring_setup", "keyctl", "mount", "mount_setattr", "move_mount", "open_tree", "pidfd_getfd", "pivot_root", "quotactl", "request_key",
		"setdomainname", "sethostname", "setns", "umount", "umount2", "unshare",
	}, more...))
}

// seccompProfile turns the profile of the containers tools into what a runtime takes. The calls
// refused give EPERM, clone3 ENOSYS, as docker has it.
func seccompProfile(t *testing.T, caps, refused []string) object {
	t.Helper()
	data, err := os.ReadFile("/usr/share/containers/seccomp.json")
	if err != nil {
		need(t, "install golang-github-containers-common: "+err.Error())
	}
	type condition struct{ Caps, Arches []string }
	var p struct {
		DefaultAction   string
		DefaultErrnoRet uint
		Syscalls        []struct {
			Names              []string
			Action             string
			ErrnoRet           *uint
			Args               []object
			Includes, Excludes condition
		}
	}
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(c string) bool { return slices.Contains(caps, strings.TrimPrefix(c, "CAP_")) })
	}
	var rules []object
	for _, s := range p.Syscalls {
		if len(s.Includes.Caps) > 0 && !has(s.Includes.Caps) || has(s.Excludes.Caps) ||
			len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, "amd64") {
			continue
		}
		names := slices.DeleteFunc(slices.Clone(s.Names), func(n string) bool {
			return slices.Contains(refused, n) || n == "clone" && refused != nil
		})
		if len(names) == 0 {
			continue
		}
		rule := object{"names": names, "action": s.Action}
		if s.ErrnoRet != nil {
			rule["errnoRet"] = *s.ErrnoRet
		}
		if len(s.Args) > 0 {
			rule["args"] = s.Args
		}
		rules = append(rules, rule)
	}
	if refused != nil {
		const newNamespaces = 0x7e020000
		rules = append(rules,
			object{"names": slices.DeleteFunc(slices.Clone(refused), func(n string) bool { return n == "clone3" }), "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
			object{"names": []string{"clone"}, "action": "SCMP_ACT_ALLOW", "args": []object{{"index": 0, "value": newNamespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}}})
	}
	out := object{"defaultAction": p.DefaultAction, "defaultErrnoRet": p.DefaultErrnoRet, "syscalls": rules}
	if refused != nil {
		out["defaultAction"], out["defaultErrnoRet"] = "SCMP_ACT_ERRNO", 1
		rules = append(rules, object{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
		out["syscalls"] = rules
	}
	return out
}

// boxFile makes users and owners, removes and asks, as installations do.
const boxFile = `
boxed:
  from: {type: tar, url: busybox.tar}
  imports: [greeting.txt]
  run: |
    set -e
    test "$(id -u)" = 0
    cat /stacker/imports/greeting.txt > /greeting
    echo worker:x:1234:1234::/:/bin/sh >> /etc/passwd
    mkdir /srv /srv/data
    echo data > /srv/data/file
    chown -R worker /srv/data
    chmod 2750 /srv/data
    test "$(stat -c %u:%a /srv/data)" = 1234:2750
    su worker -s /bin/sh -c 'test "$(id -u)" = 1234'
    mkdir /srv/ro /srv/none
    echo ro > /srv/ro/f
    mkdir /srv/ro/d
    chmod 555 /srv/ro
    chmod 0 /srv/none
    rm /bin/vi
    mkfifo /srv/fifo
    test -c /dev/null && echo gone > /dev/null
    test ! -e /proc/self || test -n "$(cat /proc/self/status)"
    test ! -e /work
    ! mount -t tmpfs none /tmp 2>/dev/null
second:
  from: {type: built, tag: boxed}
  run: |
    test ! -e /bin/vi
    test "$(stat -c %u /srv/data/file)" = 1234
    test "$(cat /srv/ro/f)" = ro
    rm -r /srv/data /srv/ro/d
    echo two >> /greeting
`

// boxDockerfile has every kind of mount.
const boxDockerfile = `
FROM scratch AS base
ADD busybox.tar /
FROM base
RUN --mount=type=cache,target=/var/cache/app --mount=type=tmpfs,target=/scratch \
    --mount=type=bind,source=greeting.txt,target=/ctx/greeting --mount=type=secret,id=token \
    set -e; test ! -e /var/cache/app/first; echo kept > /var/cache/app/first; ln /var/cache/app/first /linked 2>/dev/null || cp /var/cache/app/first /linked; \
    echo x > /scratch/x; cp /ctx/greeting /greeting; \
    test "$(cat /run/secrets/token)" = secret; test "$(stat -c %u:%a /run/secrets/token)" = 0:400; \
    ln -s ../greeting /etc/link; chown 5:6 /greeting
RUN --mount=type=cache,target=/var/cache/app --mount=type=bind,from=base,target=/base \
    set -e; echo changed >> /linked; cp /var/cache/app/first /copied; test -x /base/bin/busybox; \
    mkdir -p /srv/app; echo app:x:1000:1000::/:/bin/sh >> /etc/passwd; chown app /srv/app
USER app
RUN --mount=type=cache,target=/srv/app/cache,uid=1000 --network=none \
    set -e; echo mine > /srv/app/cache/mine; id -u > /srv/app/id; test ! -e /run/secrets/token
`

// dropCaps is what the options --cap-drop NAME leave of docker's.
func dropCaps(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(dockerCaps), func(c string) bool { return slices.Contains(names, c) })
}

// TestBoxes builds in containers as others make them: the images are the same
// everywhere.
func TestBoxes(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "only root can make every kind of container")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		need(t, "install runc")
	}
	podmanCaps := []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
	chrootCaps, lessCaps := dropCaps("NET_RAW", "NET_BIND_SERVICE", "AUDIT_WRITE"), dropCaps("MKNOD")
	image, want := stackerImage(t, "stacker.yaml"), ""
	for _, c := range []struct {
		name string
		box  box
		says string // expected in the output of check
	}{
		{"podman", box{userns: true, caps: podmanCaps, seccomp: podmanSeccomp(t, podmanCaps)}, "level: root"},
		{"podman-user", box{userns: true, uid: 1000, caps: podmanCaps, seccomp: podmanSeccomp(t, podmanCaps)}, "level: single"},
		{"userns-unmasked", box{userns: true, caps: dockerCaps, unmasked: true}, "level: root"},
		{"userns", box{userns: true, caps: dockerCaps}, "level: root"},
		{"userns-user", box{userns: true, uid: 1000, noNew: true}, "level: single"},
		{"userns-without-setfcap", box{userns: true, caps: []string{"SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE"}}, "has only 65535 ids"},
		{"root", box{caps: dockerCaps}, "level: root"},
		{"user", box{uid: 1000, noNew: true}, "level: single"},
		{"docker", box{caps: dockerCaps, seccomp: dockerSeccomp(t, dockerCaps)}, "level: chroot"},
		{"docker-caps-of-chroot", box{caps: chrootCaps, seccomp: dockerSeccomp(t, chrootCaps)}, "level: chroot"},
		{"docker-without-mknod", box{caps: lessCaps, seccomp: dockerSeccomp(t, lessCaps)}, "not chroot: root has no CAP_MKNOD"},
		{"docker-root-without-caps", box{seccomp: dockerSeccomp(t, nil), noNew: true}, "level: vroot"},
		{"root-without-caps", box{}, "runAsUser: 1000"},
		{"docker-user", box{uid: 1000, seccomp: dockerSeccomp(t, nil), noNew: true}, "level: vroot"},
		{"seccomp-of-restricted", box{uid: 1000, noNew: true, seccomp: exampleSeccomp(t)}, "level: single"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(boxFile), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "greeting.txt"), []byte("hello\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := copyFile(filepath.Join(os.Getenv(homeVariable), "base", "busybox.tar"), filepath.Join(dir, "busybox.tar"), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := boxed(t, image, c.box, dir, "check"); err != nil || !strings.Contains(out, c.says) {
				t.Errorf("check: %v, want %q in\n%s", err, c.says, out)
			}
			if out, err := boxed(t, image, c.box, dir, "build", "--progress", "plain"); err != nil {
				t.Fatalf("build: %v\n%s", err, out)
			}
			index, err := os.ReadFile(filepath.Join(dir, "oci", "index.json"))
			if err != nil {
				t.Fatal(err)
			}
			got := string(index) + boxedDockerfile(t, image, c.box, dir)
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("other images than in the first box: %s", firstDifference(want, got))
			}
		})
	}
}

// boxedDockerfile builds boxDockerfile and lists the image's files.
func boxedDockerfile(t *testing.T, image string, b box, dir string) string {
	t.Helper()
	for name, text := range map[string]string{"Dockerfile": boxDockerfile, "token": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"build", "--progress", "plain", "-f", "Dockerfile", "--secret", "id=token,src=token", "-t", "oci:image:v1", "."}
	if out, err := boxed(t, image, b, dir, args...); err != nil {
		t.Fatalf("build of a Dockerfile: %v\n%s", err, out)
	}
	return listLayers(t, filepath.Join(dir, "image"), "v1", 0)
}

// TestBoxesRefused wants to be told what to do in containers where no step can run, and that
// what runs no step works there.
func TestBoxesRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "only root can make every kind of container")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		need(t, "install runc")
	}
	image := stackerImage(t, "stacker.yaml")
	for _, c := range []struct {
		name string
		box  box
		says string
	}{
		{"untraced", box{uid: 1000, seccomp: dockerSeccomp(t, nil, "ptrace")}, "trace the step: operation not permitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			build := "empty:\n  from: {type: scratch}\n  labels: {a: b}\n"
			if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(build), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := boxed(t, image, c.box, dir, "check")
			if err == nil || !strings.Contains(out, c.says) {
				t.Errorf("check: %v, want %q in\n%s", err, c.says, out)
			}
			if out, err = boxed(t, image, c.box, dir, "build"); err != nil {
				t.Errorf("a build without steps: %v\n%s", err, out)
			}
			steps := build + "  run: echo hello\n"
			if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(steps), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err = boxed(t, image, c.box, dir, "build"); err == nil || !strings.Contains(out, c.says) {
				t.Errorf("build: %v, want %q in\n%s", err, c.says, out)
			}
		})
	}
}
