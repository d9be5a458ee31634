// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The tests need mounts, so they run in a user namespace with one id: TestMain
// starts the test program again in one.
func TestMain(m *testing.M) {
	if os.Getenv("MOUNT_TEST") == "inside" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "MOUNT_TEST=inside")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil && os.Getenv("CI") != "true":
		fmt.Println("SKIP: no user namespace:", err)
	case err != nil:
		fmt.Println(err)
		os.Exit(1)
	}
}

// write makes files with their own names as content.
func write(t testing.TB, dir string, names ...string) string {
	t.Helper()
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(dir), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// at names a file in a mount that is nowhere attached.
func at(m *os.File, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", m.Fd(), name) }

// bothWays runs a test of overlays with the two ways to mount one.
func bothWays(t *testing.T, f func(t *testing.T, old bool)) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%t", old), func(t *testing.T) { f(t, old) })
	}
}

func TestOverlay(t *testing.T) { bothWays(t, testOverlay) }

func testOverlay(t *testing.T, old bool) {
	dir := t.TempDir()
	a, b := write(t, dir+"/a", "x", "only-a"), write(t, dir+"/b", "x")
	up, work := dir+"/up", dir+"/work"
	for _, d := range []string{up, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Overlay(OverlayOptions{Lowers: []string{a, b}, Upper: up, Work: work, Old: old})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if got, _ := os.ReadFile(at(m, "x")); string(got) != b {
		t.Errorf("x is from %q, want from the topmost layer %q", got, b)
	}
	if err := os.Remove(at(m, "only-a")); err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(up + "/only-a")
	if err != nil || st.Mode()&fs.ModeCharDevice == 0 {
		t.Errorf("whiteout = %v, %v; want a character device", st, err)
	}
	if err := os.WriteFile(at(m, "new"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(up + "/new"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(work + "/work/incompat/volatile"); err != nil {
		t.Errorf("the mark of a volatile mount is not where it is said to be: %v", err)
	}
}

func TestOverlayReadOnly(t *testing.T) { bothWays(t, testOverlayReadOnly) }

func testOverlayReadOnly(t *testing.T, old bool) {
	dir := t.TempDir()
	m, err := Overlay(OverlayOptions{Lowers: []string{write(t, dir+"/a", "x"), write(t, dir+"/b", "y")}, Old: old})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.WriteFile(at(m, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write = %v, want %v", err, syscall.EROFS)
	}
}

// As many layers as the kernel can, with paths relative to the working directory.
func TestOverlayManyLayers(t *testing.T) { bothWays(t, testOverlayManyLayers) }

func testOverlayManyLayers(t *testing.T, old bool) {
	t.Chdir(t.TempDir())
	var lowers []string
	for i := range MaxLowers + 1 {
		lowers = append(lowers, write(t, fmt.Sprintf("%040d", i), fmt.Sprintf("f%d", i)))
	}
	m, err := Overlay(OverlayOptions{Lowers: lowers[:MaxLowers], Old: old})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, i := range []int{0, MaxLowers - 1} {
		if _, err := os.Stat(at(m, fmt.Sprintf("f%d", i))); err != nil {
			t.Error(err)
		}
	}
	_, err = Overlay(OverlayOptions{Lowers: lowers, Old: old})
	if !errors.Is(err, syscall.E2BIG) || !strings.Contains(err.Error(), "merge some of them") {
		t.Errorf("error = %v, want what to do about too many layers", err)
	}
}

func TestOverlayErrors(t *testing.T) { bothWays(t, testOverlayErrors) }

func testOverlayErrors(t *testing.T, old bool) {
	dir := t.TempDir()
	a, b := write(t, dir+"/a", "x"), write(t, dir+"/b", "x")
	file := syscall.EINVAL
	if old || !appends() {
		file = syscall.ENOTDIR
	}
	for _, c := range []struct {
		name string
		o    OverlayOptions
		want error
	}{
		{"missing layer", OverlayOptions{Lowers: []string{a, dir + "/none"}}, syscall.ENOENT},
		{"layer is a file", OverlayOptions{Lowers: []string{a, b + "/x"}}, file},
		{"no layer", OverlayOptions{}, syscall.EINVAL},
		{"missing upper", OverlayOptions{Lowers: []string{a}, Upper: dir + "/none", Work: b}, syscall.ENOENT},
		{"NUL", OverlayOptions{Lowers: []string{a, "b\x00"}}, syscall.EINVAL},
	} {
		c.o.Old = old
		_, err := Overlay(c.o)
		var e *Error
		if !errors.Is(err, c.want) || !errors.As(err, &e) {
			t.Errorf("%s: error = %v, want %v in an *Error", c.name, err, c.want)
		}
	}
}

// An overlay cannot be the upper directory of another one: the error says what to do.
func TestOverlayUpper(t *testing.T) { bothWays(t, testOverlayUpper) }

func testOverlayUpper(t *testing.T, old bool) {
	dir := t.TempDir()
	a, b := write(t, dir+"/a", "x"), write(t, dir+"/b", "y")
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Overlay(OverlayOptions{Lowers: []string{a}, Upper: dir + "/upper", Work: dir + "/work", Old: old})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(at(m, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Overlay(OverlayOptions{Lowers: []string{b}, Upper: at(m, "upper"), Work: at(m, "work"), Old: old})
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "use another state directory") {
		t.Errorf("error = %v, want what to do", err)
	}
}

func TestCloneAttach(t *testing.T) {
	dir := t.TempDir()
	src := write(t, dir+"/src", "f", "sub/g")
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Clone(f, true)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := SetAttr(m, ReadOnly|NoSuid|NoDev|NoExec, true); err != nil {
		t.Fatal(err)
	}
	place, err := os.Open(write(t, dir+"/place", "hidden"))
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if err := Attach(m, place); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir+"/place", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if got, err := os.ReadFile(dir + "/place/sub/g"); string(got) != src {
		t.Errorf("attached file = %q, %v; want %q", got, err, src)
	}
	if err := os.WriteFile(dir+"/place/f", nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write = %v, want %v", err, syscall.EROFS)
	}
	file, err := ClonePath(src+"/f", false)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Attach(file, place); err == nil {
		t.Error("a file was attached to a directory")
	}
}

func TestCloneAtDoesNotFollow(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc", dir+"/l"); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m, err := CloneAt(d, "l", false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	st, err := m.Stat()
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("got %v, %v; want the link", st, err)
	}
}

func TestNew(t *testing.T) {
	m, err := New("tmpfs", NoDev, Option{Key: "mode", Value: "750"}, Option{Key: "size", Value: "8192"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(int(m.Fd()), &st); err != nil || st.Blocks*uint64(st.Bsize) != 8192 {
		t.Errorf("size = %d, %v; want 8192", st.Blocks*uint64(st.Bsize), err)
	}
	_, err = New("tmpfs", 0, Option{Key: "nonsense", Value: "1"})
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error = %v, want it to name the option", err)
	}
	if _, err := New("nosuchfs", 0); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("error = %v, want %v", err, syscall.ENODEV)
	}
}

// Only who has privilege over the file system may map its ids.
func TestIDMapUnprivileged(t *testing.T) {
	m, err := ClonePath(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ns, err := os.Open("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := IDMap(m, ns, false); !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EINVAL) {
		t.Errorf("error = %v, want a refusal", err)
	}
}

func BenchmarkOverlay(b *testing.B) {
	for _, old := range []bool{false, true} {
		b.Run(fmt.Sprintf("old=%t", old), func(b *testing.B) { benchmarkOverlay(b, old) })
	}
}

func benchmarkOverlay(b *testing.B, old bool) {
	dir := b.TempDir()
	var lowers []string
	for i := range 20 {
		lowers = append(lowers, write(b, fmt.Sprintf("%s/%d", dir, i), "f"))
	}
	for b.Loop() {
		m, err := Overlay(OverlayOptions{Lowers: lowers, Old: old})
		if err != nil {
			b.Fatal(err)
		}
		_ = m.Close()
	}
}
