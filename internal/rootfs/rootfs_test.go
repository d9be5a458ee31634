// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newRoot makes base/tree, with links that lead everywhere, beside base/out, the
// outside that nothing may reach.
func newRoot(tb testing.TB) (r *Root, tree, out string) {
	tb.Helper()
	base := tb.TempDir()
	tree, out = filepath.Join(base, "tree"), filepath.Join(base, "out")
	for _, d := range []string{tree, tree + "/d", tree + "/d/e", out, out + "/d"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for p, body := range map[string]string{tree + "/f": "in", tree + "/d/g": "in", out + "/f": "out", out + "/d/g": "out"} {
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"abs": out, "rel": "../out", "deep": "d/e/../../../out", "in": "/d", "inrel": "d/e/..", "file": "/f",
		"outfile": out + "/f", "dangling": "/new/place", "loop": "loop", "magic": "/proc/self/root", "d/up": "../../out",
	} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := unix.Mkfifo(tree+"/fifo", 0o644); err != nil {
		tb.Fatal(err)
	}
	r, err := Open(tree)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r, tree, out
}

// state describes all files below dir.
func state(tb testing.TB, dir string) string {
	tb.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d %d %d\n", p, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim.Nano())
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"": ".", ".": ".", "/": ".", "..": ".", "../..": ".", "a": "a", "/a/": "a", "a//b/./c": "a/b/c",
		"../a": "a", "a/../../b": "b", "a/..": ".", "...": "...", "..a": "..a",
	} {
		if got := Clean(name); got != want {
			t.Errorf("Clean(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestOpen(t *testing.T) {
	r, _, out := newRoot(t)
	for name, want := range map[string]string{
		"f": "in", "/f": "in", "../f": "in", "../../../f": "in", "d/g": "in", "in/g": "in", "inrel/g": "in", "file": "in",
		"in/../f": "in", "d/../f": "in",
		"abs/f": "", "rel/f": "", "deep/f": "", "outfile": "", "d/up/f": "", "magic/etc/passwd": "", "loop": "", "fifo": "", "absent": "",
		out + "/f": "", "f/x": "",
	} {
		got := ""
		if f, err := r.Open(name); err == nil {
			data, err := io.ReadAll(f)
			if err != nil {
				t.Error(err)
			}
			f.Close()
			got = string(data)
		}
		if got != want {
			t.Errorf("Open(%q) gives %q, want %q", name, got, want)
		}
	}
	if _, err := r.Open("fifo"); !errors.Is(err, ErrSpecial) {
		t.Errorf("Open(fifo): error = %v, want %v", err, ErrSpecial)
	}
	if _, err := r.Open("absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open(absent): error = %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := Open("/absent/root"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open root: error = %v, want %v", err, fs.ErrNotExist)
	}
}

// everything does every operation that changes something to name, ignoring errors.
func everything(r *Root, name string) {
	ts := unix.Timespec{Sec: 1}
	if f, err := r.OpenFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o666); err == nil {
		_, _ = f.WriteString("changed")
		_ = f.Close()
	}
	_ = r.MkdirAll(name+"/a/b", 0o777, os.Getuid(), os.Getgid())
	_ = r.Mkdir(name+"/m", 0o777)
	_ = r.Symlink("x", name+"/s")
	_ = r.Mknod(name+"/n", unix.S_IFIFO|0o666, 0)
	_ = r.Link("f", name+"/h")
	_ = r.Link(name+"/f", "stolen")
	_ = r.Link(name, "stolen2")
	_ = r.Chmod(name, 0o777)
	_ = r.Chmod(name+"/f", 0o777)
	_ = r.Lchown(name, 1, 1)
	_ = r.Lchown(name+"/f", 1, 1)
	_ = r.Chtimes(name, ts, ts)
	_ = r.Chtimes(name+"/f", ts, ts)
	_ = r.Lsetxattr(name, "user.x", []byte("y"))
	_ = r.Lsetxattr(name+"/f", "user.x", []byte("y"))
	_ = r.Rename(name+"/f", "moved")
	_ = r.Rename("f", name+"/moved")
	_ = r.Remove(name + "/f")
	_ = r.RemoveAll(name + "/d")
	_ = r.RemoveAll(name)
}

func TestNothingOutside(t *testing.T) {
	for _, name := range []string{
		"abs", "rel", "deep", "outfile", "d/up", "magic", "loop", "fifo", "dangling", "..", "../out", "d/../../out", "abs/d", "rel/../out", "/",
	} {
		t.Run(name, func(t *testing.T) {
			r, _, out := newRoot(t)
			before := state(t, out)
			everything(r, name)
			everything(r, filepath.Base(out))
			if after := state(t, out); after != before {
				t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
			}
		})
	}
}

// A second Close must not close what got the number of the first.
func TestCloseTwice(t *testing.T) {
	r, tree, _ := newRoot(t)
	d, err := r.OpenDir("d")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		close func() error
	}{{"Dir", d.Close}, {"Root", r.Close}} {
		if err := c.close(); err != nil {
			t.Fatalf("%s.Close: %v", c.name, err)
		}
		f, err := os.Open(filepath.Join(tree, "f")) // the lowest number that is free
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := c.close(); !errors.Is(err, unix.EBADF) {
			t.Errorf("second %s.Close: got %v, want %v", c.name, err, unix.EBADF)
		}
		if _, err := f.Stat(); err != nil {
			t.Errorf("after the second %s.Close, another file: %v", c.name, err)
		}
	}
	if _, err := r.Lstat("f"); !errors.Is(err, unix.EBADF) {
		t.Errorf("Lstat of a closed root: got %v, want %v", err, unix.EBADF)
	}
}

func TestDirNames(t *testing.T) {
	r, _, out := newRoot(t)
	d, err := r.Dir()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := state(t, out)
	for _, name := range []string{"", ".", "..", "../out", "/", "d/g", out} {
		for op, err := range map[string]error{
			"Mkdir": d.Mkdir(name, 0o755), "Symlink": d.Symlink("x", name), "Remove": d.Remove(name), "RemoveAll": d.RemoveAll(name),
			"Link": d.Link(d, "f", name), "Rename": d.Rename("f", d, name), "Chmod": d.Chmod(name, 0o777), "Lchown": d.Lchown(name, 0, 0),
		} {
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s(%q): error = %v, want %v", op, name, err, unix.EINVAL)
			}
		}
	}
	for _, name := range []string{"abs", "outfile"} {
		if _, err := d.OpenDir(name); err == nil {
			t.Errorf("OpenDir(%q) follows the link", name)
		}
		if _, err := d.OpenFile(name, unix.O_RDONLY, 0); !errors.Is(err, unix.ELOOP) {
			t.Errorf("OpenFile(%q): error = %v, want %v", name, err, unix.ELOOP)
		}
		if err := d.Chmod(name, 0o777); err == nil {
			t.Errorf("Chmod(%q): no error", name)
		}
	}
	if after := state(t, out); after != before {
		t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
	}
}

func TestOperations(t *testing.T) {
	r, tree, _ := newRoot(t)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ts := unix.Timespec{Sec: 5, Nsec: 6}
	must("Mkdir", r.Mkdir("in/n", 0o700))
	must("Chmod", r.Chmod("in/n", 0o1751))
	must("Chtimes", r.Chtimes("in/n", ts, ts))
	must("Chtimes of a link", r.Chtimes("loop", ts, ts))
	must("Lsetxattr", r.Lsetxattr("in/n", "user.k", []byte("v")))
	must("Link", r.Link("d/g", "in/h"))
	must("Rename", r.Rename("in/h", "in/i"))
	must("Symlink", r.Symlink("i", "in/j"))
	must("Mknod", r.Mknod("in/k", unix.S_IFIFO|0o600, 0))
	must("Remove", r.Remove("in/e"))
	must("RemoveAll of nothing", r.RemoveAll("no/such/thing"))
	st, err := r.Lstat("d/n")
	if err != nil || st.Mode&0o7777 != 0o1751 || st.Mtim != ts {
		t.Errorf("d/n: %o %v, error %v", st.Mode, st.Mtim, err)
	}
	if st, err := r.Stat("in/j"); err != nil || st.Nlink != 2 {
		t.Errorf("Stat: %d links, error %v, want 2", st.Nlink, err)
	}
	if target, err := r.Readlink("in/j"); err != nil || target != "i" {
		t.Errorf("Readlink = %q, %v, want i", target, err)
	}
	value, err := r.Lgetxattr("d/n", "user.k")
	names, listErr := r.Llistxattr("d/n")
	if err != nil || listErr != nil || string(value) != "v" || !slices.Contains(names, "user.k") {
		t.Errorf("attributes = %q, %q, errors %v, %v", names, value, err, listErr)
	}
	big := bytes.Repeat([]byte("x"), 2000)
	must("big attribute", r.Lsetxattr("d/n", "user.big", big))
	if value, err := r.Lgetxattr("d/n", "user.big"); err != nil || !bytes.Equal(value, big) {
		t.Errorf("big attribute: %d bytes, error %v, want %d", len(value), err, len(big))
	}
	must("Lremovexattr", r.Lremovexattr("d/n", "user.k"))
	if _, err := r.Lgetxattr("d/n", "user.k"); !errors.Is(err, unix.ENODATA) {
		t.Errorf("error = %v, want %v", err, unix.ENODATA)
	}
	list, err := r.ReadDir("in")
	var got []string
	for _, e := range list {
		got = append(got, e.Name)
	}
	slices.Sort(got)
	if want := []string{"g", "i", "j", "k", "n", "up"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("ReadDir = %q, %v, want %q", got, err, want)
	}
	must("RemoveAll", r.RemoveAll("."))
	if list, err := os.ReadDir(tree); err != nil || len(list) != 0 {
		t.Errorf("%d names left, error %v", len(list), err)
	}
}

func TestMkdirAll(t *testing.T) {
	for _, tc := range []struct {
		name string
		want string // below the tree; "" for an error
	}{
		{"a/b/c", "a/b/c"},
		{"d/e", "d/e"},
		{"in/x/y", "d/x/y"},
		{"inrel/x", "d/x"},
		{"dangling/x", "new/place/x"},
		{"rel/x", "out/x"},
		{"d/up/x", "out/x"},
		{"../../a", "a"},
		{".", "."},
		{"f/x", ""},
		{"loop/x", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, tree, out := newRoot(t)
			before := state(t, out)
			old := unix.Umask(0o077)
			err := r.MkdirAll(tc.name, 0o2775, os.Getuid(), os.Getgid())
			unix.Umask(old)
			if (err == nil) != (tc.want != "") {
				t.Errorf("error = %v", err)
			}
			if fi, err := os.Lstat(filepath.Join(tree, tc.want)); err != nil || !fi.IsDir() {
				t.Errorf("%s: error %v, want a directory", tc.want, err)
			} else if tc.want == "a/b/c" && fi.Mode() != fs.ModeDir|fs.ModeSetgid|0o775 {
				t.Errorf("mode = %v, want 2775", fi.Mode())
			}
			if after := state(t, out); after != before {
				t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
			}
		})
	}
}

func TestRemoveAllDeep(t *testing.T) {
	r, tree, _ := newRoot(t)
	d, err := r.Dir()
	if err != nil {
		t.Fatal(err)
	}
	const depth = 3000 // the path is longer than the kernel takes
	for range depth {
		if err := d.Mkdir("deep", 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
		if d == nil {
			break
		}
		// "deep" is a link at the top of the tree: use another name there.
		next, err := d.Walk("deep")
		if errors.Is(err, unix.ENOTDIR) {
			if err := d.Mkdir("x", 0o755); err != nil {
				t.Fatal(err)
			}
			next, err = d.Walk("x")
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Symlink("x", "link"); err != nil {
			t.Fatal(err)
		}
		d.Close()
		d = next
	}
	d.Close()
	if err := r.RemoveAll("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(tree + "/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want %v", err, fs.ErrNotExist)
	}
}

func TestRemoveAllUnreadable(t *testing.T) {
	r, tree, out := newRoot(t)
	if err := os.MkdirAll(tree+"/x/y/z", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, tree+"/x/y/z/l"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/x/y/z", "/x/y", "/x"} {
		if err := os.Chmod(tree+p, map[string]fs.FileMode{"/x": 0, "/x/y": 0o555, "/x/y/z": 0o444}[p]); err != nil {
			t.Fatal(err)
		}
	}
	before := state(t, out)
	if err := r.RemoveAll("x"); err != nil {
		t.Error(err)
	}
	if after := state(t, out); after != before {
		t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
	}
}

// TestRace does everything below a name that somebody else keeps turning into a
// link to the outside.
func TestRace(t *testing.T) {
	r, tree, out := newRoot(t)
	before := state(t, out)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			l, link := filepath.Join(tree, "l"), filepath.Join(tree, "link")
			if unix.Renameat2(unix.AT_FDCWD, l, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) != nil {
				_ = os.MkdirAll(l+"/d", 0o755)
				_ = os.WriteFile(l+"/f", []byte("in"), 0o644)
				_ = os.Symlink("../out", link)
			}
		}
	}()
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		everything(r, "l")
	}
	close(stop)
	<-done
	if after := state(t, out); after != before {
		t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
	}
}

func FuzzMkdirAll(f *testing.F) {
	for _, seed := range []string{"a/b", "../x", "abs/x", "rel/../x", "d/up/y", "dangling", "loop"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, target, name string) {
		r, _, out := newRoot(t)
		before := state(t, out)
		_ = r.Symlink(target, "link")
		_ = r.MkdirAll("link/"+name, 0o755, os.Getuid(), os.Getgid())
		_ = r.MkdirAll(name, 0o755, os.Getuid(), os.Getgid())
		if after := state(t, out); after != before {
			t.Errorf("outside changed:\n%s\nwas:\n%s", after, before)
		}
	})
}
