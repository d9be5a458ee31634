// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// makeTree writes files: "dir/" is a directory, "a -> b" a symlink, anything else
// a file "path=content".
func makeTree(t testing.TB, files ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		addFile(t, root, f)
	}
	return root
}

func addFile(t testing.TB, root, f string) {
	t.Helper()
	var err error
	if link, target, ok := strings.Cut(f, " -> "); ok {
		err = os.Symlink(target, filepath.Join(root, link))
	} else if dir, ok := strings.CutSuffix(f, "/"); ok {
		err = os.MkdirAll(filepath.Join(root, dir), 0o755)
	} else {
		name, content, _ := strings.Cut(f, "=")
		if err = os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err == nil {
			err = os.WriteFile(filepath.Join(root, name), []byte(content), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func scanTree(t testing.TB, x *Index, root string, o Options) *Tree {
	t.Helper()
	tree, err := x.Scan(t.Context(), root, o)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Unsaved != nil {
		t.Fatal(tree.Unsaved)
	}
	return tree
}

// later is an index whose clock is an hour and more ahead, so that files made by
// the test are old.
func later(t testing.TB) *Index {
	x := OpenIndex(filepath.Join(t.TempDir(), "index"))
	x.clock = func() int64 { return wallClock() + 2*foreignMargin }
	return x
}

func TestScanListsInBytewiseOrder(t *testing.T) {
	root := makeTree(t, "b=2", "a/x=1", "a-b=3", "a/y/z=4", "a.c/", "link -> ../outside", "\xff\n=5", "a/y -z=6")
	tree := scanTree(t, OpenIndex(""), root, Options{})
	var got []string
	for _, e := range tree.Entries {
		got = append(got, fmt.Sprintf("%q", e.Path))
		want := digest.Digest("")
		if e.IsRegular() {
			data, _ := os.ReadFile(filepath.Join(root, e.Path))
			want = digest.FromBytes(data)
		}
		if e.Digest != want {
			t.Errorf("digest of %q: got %s, want %s", e.Path, e.Digest, want)
		}
	}
	want := `"" "a" "a-b" "a.c" "a/x" "a/y" "a/y -z" "a/y/z" "b" "link" "\xff\n"`
	if text := strings.Join(got, " "); text != want {
		t.Errorf("paths: got %s, want %s", text, want)
	}
	if tree.Entries[9].Target != "../outside" {
		t.Errorf("target: got %q, want ../outside", tree.Entries[9].Target)
	}
}

func TestScanRootThatIsAFileOrLink(t *testing.T) {
	root := makeTree(t, "file=hello", "link -> file")
	tests := []struct {
		name    string
		o       Options
		regular bool
	}{
		{"file", Options{}, true},
		{"link", Options{}, false},
		{"link", Options{FollowRoot: true}, true},
	}
	for _, tt := range tests {
		tree := scanTree(t, later(t), filepath.Join(root, tt.name), tt.o)
		if len(tree.Entries) != 1 || tree.Entries[0].Path != "" || tree.Entries[0].IsRegular() != tt.regular {
			t.Errorf("%s %+v: got %+v, want one entry, regular %v", tt.name, tt.o, tree.Entries, tt.regular)
		}
		if tt.regular && tree.Entries[0].Digest != digest.FromString("hello") {
			t.Errorf("%s: digest: got %s", tt.name, tree.Entries[0].Digest)
		}
	}
}

// everywhere asks the same in all directories.
func everywhere(f func(string, bool) (bool, bool)) func(string) func(string, bool) (bool, bool) {
	return func(string) func(string, bool) (bool, bool) { return f }
}

// What lies below a directory that is wanted as a whole is not asked about.
func TestScanWhole(t *testing.T) {
	root := makeTree(t, "a/b/c=1", "a/d=2", "e/f=3", "g=4")
	o := Options{Include: func(dir string) func(string, bool) (bool, bool) {
		if dir == "a" {
			return nil
		}
		return func(p string, _ bool) (bool, bool) {
			if dir != "" {
				t.Errorf("asked about %q", p)
			}
			return false, p == "a"
		}
	}}
	var got []string
	for _, e := range scanTree(t, OpenIndex(""), root, o).Entries {
		got = append(got, e.Path)
	}
	want := []string{"", "a", "a/b", "a/b/c", "a/d"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestScanInclude(t *testing.T) {
	root := makeTree(t, "keep=1", "drop=2", "d/keep=3", "d/drop=4", "e/drop=5", "f/drop/keep=6", "g/keep=7")
	o := Options{Include: everywhere(func(p string, dir bool) (bool, bool) {
		return filepath.Base(p) == "keep", p != "g"
	})}
	var got []string
	for _, e := range scanTree(t, OpenIndex(""), root, o).Entries {
		got = append(got, e.Path)
	}
	want := []string{"", "d", "d/keep", "f", "f/drop", "f/drop/keep", "keep"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestScanRefuses(t *testing.T) {
	root := makeTree(t, "d/ok=1")
	if err := unix.Mkfifo(filepath.Join(root, "d/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := OpenIndex("").Scan(t.Context(), root, Options{})
	want := fmt.Sprintf("%q is a FIFO, which no image can be given from here: remove it or exclude it", filepath.Join(root, "d/pipe"))
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	o := Options{Include: everywhere(func(p string, _ bool) (bool, bool) { return p != "d/pipe", true })}
	if tree := scanTree(t, OpenIndex(""), root, o); len(tree.Entries) != 3 {
		t.Errorf("with the FIFO excluded: got %d entries, want 3", len(tree.Entries))
	}
	if _, err := OpenIndex("").Scan(t.Context(), filepath.Join(root, "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing root: got %v, want not exist", err)
	}
}

func TestScanStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenIndex("").Scan(ctx, makeTree(t, "a=1"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestIndexReadsOnlyWhatChanged(t *testing.T) {
	root := makeTree(t, "a=1234", "b/c=56789", "b/d=0")
	x := later(t)
	steps := []struct {
		name   string
		change func()
		read   int64
	}{
		{"first", func() {}, 10},
		{"unchanged", func() {}, 0},
		{"one file written", func() { addFile(t, root, "b/c=abc") }, 3},
		{"mtime set back after a write", func() {
			st, _ := os.Stat(filepath.Join(root, "a"))
			addFile(t, root, "a=4321")
			_ = os.Chtimes(filepath.Join(root, "a"), st.ModTime(), st.ModTime())
		}, 4},
		{"replaced by another file", func() {
			addFile(t, root, "new=9")
			_ = os.Rename(filepath.Join(root, "new"), filepath.Join(root, "b/d"))
		}, 1},
		{"a file removed", func() { _ = os.Remove(filepath.Join(root, "a")) }, 0},
		{"unchanged again", func() {}, 0},
	}
	for _, s := range steps {
		waitForTick(t)
		s.change()
		tree := scanTree(t, x, root, Options{})
		if tree.Read != s.read {
			t.Errorf("%s: read %d bytes, want %d", s.name, tree.Read, s.read)
		}
		if got, want := tree.Digest(), scanTree(t, OpenIndex(""), root, Options{}).Digest(); got != want {
			t.Errorf("%s: digest with index %s, without %s", s.name, got, want)
		}
	}
}

// waitForTick returns when the file systems' clock has gone on: kernels before 6.13
// give the same ctime to all that happens within some milliseconds.
func waitForTick(t *testing.T) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	var first int64
	for {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := lookup(unix.AT_FDCWD, probe, false)
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = st.ctime
		}
		if st.ctime != first {
			return
		}
	}
}

func TestIndexTrustsNoYoungFile(t *testing.T) {
	root := makeTree(t, "a=1")
	st, err := lookup(unix.AT_FDCWD, filepath.Join(root, "a"), false)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		clock int64 // at the first scan
		read  int64 // by the second scan, hours later
	}{
		{"ctime in the future", st.ctime - int64(time.Hour), 1},
		{"same moment", st.ctime, 1},
		{"within the margin", st.ctime + localMargin, 1},
		{"old", st.ctime + foreignMargin + 1, 0},
	}
	for _, tt := range tests {
		x := OpenIndex(t.TempDir())
		x.clock = func() int64 { return tt.clock }
		scanTree(t, x, root, Options{})
		x.clock = func() int64 { return st.ctime + 3*foreignMargin }
		if tree := scanTree(t, x, root, Options{}); tree.Read != tt.read {
			t.Errorf("%s: read %d bytes, want %d", tt.name, tree.Read, tt.read)
		}
	}
}

// TestIndexNeverLies writes and scans as fast as it can, with the real clock: the
// contents have one size, and many of them one ctime on kernels with coarse times.
func TestIndexNeverLies(t *testing.T) {
	root := makeTree(t)
	x := OpenIndex(t.TempDir())
	for i := range 300 {
		content := fmt.Sprintf("%04d", i)
		addFile(t, root, "f="+content)
		for range i%2 + 1 {
			if got, want := scanTree(t, x, root, Options{}).Entries[1].Digest, digest.FromString(content); got != want {
				t.Fatalf("write %d: got %s, want %s", i, got, want)
			}
		}
	}
}

func TestIndexServesScansOfParts(t *testing.T) {
	root := makeTree(t, "a=1", "b=2", "c=3")
	x := later(t)
	only := func(name string) Options {
		return Options{Include: everywhere(func(p string, _ bool) (bool, bool) { return p == name, false })}
	}
	for _, name := range []string{"a", "b", "c"} {
		scanTree(t, x, root, only(name))
	}
	if tree := scanTree(t, x, root, Options{}); tree.Read != 0 {
		t.Errorf("read %d bytes after scans of all parts, want 0", tree.Read)
	}
}

func TestIndexDamaged(t *testing.T) {
	root := makeTree(t, "a=1", "b/c=2", "d=3")
	x := later(t)
	want := scanTree(t, x, root, Options{}).Digest()
	path := x.indexPath(root)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		tree := scanTree(t, x, root, Options{})
		if got := tree.Digest(); got != want {
			t.Errorf("%s: digest %s, want %s", name, got, want)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, good) {
			t.Errorf("%s: index was not rebuilt", name)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("bit of byte %d", i), bad)
	}
	for _, n := range []int{0, 1, len(indexMagic), len(indexMagic) + 32, len(good) - 1} {
		check(fmt.Sprintf("cut to %d", n), good[:n])
	}
	check("grown", append(bytes.Clone(good), 0))
}

func TestIndexThatIsNoFile(t *testing.T) {
	root := makeTree(t, "a=1")
	for name, spoil := range map[string]func(path string) error{
		"fifo":    func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink": func(p string) error { return os.Symlink("/dev/zero", p) },
	} {
		x := later(t)
		if err := os.Mkdir(x.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := spoil(x.indexPath(root)); err != nil {
			t.Fatal(err)
		}
		if scanTree(t, x, root, Options{}).Read != 1 || scanTree(t, x, root, Options{}).Read != 0 {
			t.Errorf("%s in place of the index: not rebuilt", name)
		}
	}
	x := later(t)
	if err := os.MkdirAll(x.indexPath(root), 0o700); err != nil {
		t.Fatal(err)
	}
	if tree, err := x.Scan(t.Context(), root, Options{}); err != nil || tree.Unsaved == nil {
		t.Errorf("directory in place of the index: got %v, want a tree that says it is unsaved", err)
	}
}

// TestScanWhileFilesChange writes whole contents of one letter all the time: a scan
// must give an error or the digest of one of them.
func TestScanWhileFilesChange(t *testing.T) {
	root := makeTree(t, "f=")
	const size = 1 << 20
	valid := map[digest.Digest]bool{digest.FromString(""): true}
	var contents [][]byte
	for _, c := range "abc" {
		data := bytes.Repeat([]byte(string(c)), size)
		contents = append(contents, data)
		valid[digest.FromBytes(data)] = true
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(root, "t"), contents[i%3], 0o644)
				_ = os.Rename(filepath.Join(root, "t"), filepath.Join(root, "f"))
			}
		}
	}()
	x := OpenIndex(t.TempDir())
	o := Options{Include: everywhere(func(p string, _ bool) (bool, bool) { return p == "f", false })}
	for range 100 {
		tree, err := x.Scan(t.Context(), root, o)
		if err != nil {
			if !errors.Is(err, errMoving) {
				t.Errorf("got error %v, want errMoving", err)
			}
			continue
		}
		for _, e := range tree.Entries[1:] {
			if !valid[e.Digest] {
				t.Errorf("digest of no content that the file ever had: %s", e.Digest)
			}
		}
	}
	close(stop)
	<-stopped
}

// TestHashNoticesWriters appends to a file at every read of it.
func TestHashNoticesWriters(t *testing.T) {
	for _, tt := range []struct {
		writes int
		moving bool
	}{{3, false}, {1000, true}} {
		root := makeTree(t, "log=0")
		left := tt.writes
		o := Options{Workers: 1, Progress: func(int64) {
			if left--; left < 0 {
				return
			}
			f, err := os.OpenFile(filepath.Join(root, "log"), os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("x")
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Error(err)
			}
		}}
		tree, err := OpenIndex("").Scan(t.Context(), root, o)
		switch {
		case tt.moving && (!errors.Is(err, errMoving) || !strings.Contains(err.Error(), "/log")):
			t.Errorf("%d writes: got %v, want errMoving with the path", tt.writes, err)
		case !tt.moving && err != nil:
			t.Errorf("%d writes: %v", tt.writes, err)
		case !tt.moving && tree.Entries[1].Digest != digest.FromString("0xxx"):
			t.Errorf("%d writes: a digest of something else", tt.writes)
		}
	}
}

// TestHashOfWhatChangedSinceItWasListed hashes files that are no longer as they were
// listed: what is found then is what counts.
func TestHashOfWhatChangedSinceItWasListed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(file string) error
		text   string // "": the file is missing
		err    error
	}{
		{"nothing", func(string) error { return nil }, "one", nil},
		{"longer", func(p string) error { return os.WriteFile(p, []byte("longer"), 0o644) }, "longer", nil},
		{"shorter", func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) }, "x", nil},
		{"removed", os.Remove, "", nil},
		{"directory removed", func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, "", nil},
		{"link", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("../z", p)) }, "", unix.ELOOP},
		{"FIFO", func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644)) }, "", errMoving},
		{"directory", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }, "", errMoving},
	} {
		root := makeTree(t, "a/f=one", "z=two")
		s, err := newScan(OpenIndex(""), root, Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.find(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitForTick(t)
		if err := tt.change(filepath.Join(root, "a/f")); err != nil {
			t.Fatal(err)
		}
		_, err = s.hash(t.Context())
		s.top.close()
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: got error %v, want %v", tt.name, err, tt.err)
		}
		if err != nil {
			continue
		}
		got := map[string]digest.Digest{}
		for _, e := range s.entries() {
			if e.IsRegular() {
				got[e.Path] = e.Digest
			}
		}
		want := map[string]digest.Digest{"z": digest.FromString("two")}
		if tt.text != "" {
			want["a/f"] = digest.FromString(tt.text)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, want)
		}
	}
}

func TestScanUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	for _, name := range []string{"d/f", "d"} {
		root := makeTree(t, "d/f=1")
		if err := os.Chmod(filepath.Join(root, name), 0); err != nil {
			t.Fatal(err)
		}
		_, err := OpenIndex("").Scan(t.Context(), root, Options{})
		_ = os.Chmod(filepath.Join(root, "d"), 0o755)
		want := fmt.Sprintf("%q: permission denied; make it readable or exclude it", filepath.Join(root, name))
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want … %s", err, want)
		}
	}
}

func TestDeepTree(t *testing.T) {
	root := makeTree(t)
	name := strings.Repeat("n", 200)
	fd, err := unix.Open(root, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY, 0)
		_ = unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = sub
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(f)
	_ = unix.Close(fd)
	if tree := scanTree(t, OpenIndex(""), root, Options{}); len(tree.Entries) != 102 {
		t.Errorf("got %d entries, want 102", len(tree.Entries))
	}
}

func TestXattrs(t *testing.T) {
	root := makeTree(t, "f=1")
	if err := unix.Setxattr(filepath.Join(root, "f"), "user.test", []byte("v"), 0); err != nil {
		needs(t, "extended attributes in the temporary directory", err)
	}
	x := OpenIndex("")
	tree := scanTree(t, x, root, Options{Xattrs: true})
	if got := tree.Entries[1].Xattrs["user.test"]; got != "v" {
		t.Errorf("got %q, want v", got)
	}
	if tree.Digest() == scanTree(t, x, root, Options{}).Digest() {
		t.Errorf("a kept attribute is not part of the digest")
	}
}

// The index knows which files have attributes, also where the scan that read them did
// not want those.
func TestXattrsRemembered(t *testing.T) {
	root := makeTree(t, "d/f=1", "g=2")
	for _, p := range []string{"d", "d/f"} {
		if err := unix.Setxattr(filepath.Join(root, p), "user.test", []byte("v"), 0); err != nil {
			needs(t, "extended attributes in the temporary directory", err)
		}
	}
	x := later(t)
	scanTree(t, x, root, Options{})
	tree := scanTree(t, x, root, Options{Xattrs: true})
	if tree.Read != 0 {
		t.Errorf("%d bytes were read again", tree.Read)
	}
	for _, e := range tree.Entries {
		want := ""
		if strings.HasPrefix(e.Path, "d") {
			want = "v"
		}
		if got := e.Xattrs["user.test"]; got != want {
			t.Errorf("%s: got %q, want %q", e.Path, got, want)
		}
	}
}

// needs skips a test, but not where every feature must be there.
func needs(t testing.TB, what string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %v", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

// FuzzIndex: what is no index gives no records that could not be read to the end.
func FuzzIndex(f *testing.F) {
	e := newEncoder(0)
	e.add(&record{path: []byte("a/b")})
	e.add(&record{path: []byte("a/c"), stat: stat{size: 7, mtime: -5}})
	f.Add(e.bytes()[len(indexMagic)+32:])
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &decoder{data: data}
		var r record
		for n := 0; d.next(&r); n++ {
			if n > len(data) {
				t.Fatal("more records than bytes")
			}
		}
	})
}

// BenchmarkUnchanged compares a scan of 50,000 known files with find on the same.
func BenchmarkUnchanged(b *testing.B) {
	const files = 50_000
	shm, err := os.MkdirTemp("/dev/shm", "localtree-*")
	if err != nil {
		needs(b, "/dev/shm", err)
	}
	defer os.RemoveAll(shm)
	root := filepath.Join(shm, "root")
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("dir%02d/sub%02d", i/2500, i/100%25))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d.txt", i%100)), bytes.Repeat([]byte{byte(i)}, 4000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	x := later(b)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			if tree := scanTree(b, OpenIndex(""), root, Options{}); tree.Read != files*4000 {
				b.Fatalf("read %d", tree.Read)
			}
		}
	})
	scanTree(b, x, root, Options{})
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			if tree := scanTree(b, x, root, Options{}); tree.Read != 0 {
				b.Fatalf("read %d", tree.Read)
			}
		}
	})
	b.Run("unchanged+digest", func(b *testing.B) {
		for b.Loop() {
			scanTree(b, x, root, Options{}).Digest()
		}
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("find", root, "-printf", `%s %T@\n`).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
