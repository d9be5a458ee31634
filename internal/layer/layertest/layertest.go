// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package layertest helps to test what writes and reads layers as file system
// images: it makes a tree with everything that a layer can hold, and compares
// trees by their archives. It is for tests only, which run as root.
package layertest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
)

// NeedRoot skips tests that make devices or mounts.
func NeedRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Unavailable(tb, "needs root")
	}
}

// NeedTool skips tests for want of a program.
func NeedTool(tb testing.TB, name string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Unavailable(tb, err.Error())
	}
}

// Unavailable skips the test for want of something that continuous integration
// must have.
func Unavailable(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(reason)
	}
	tb.Skip(reason)
}

// Run runs a program that must succeed.
func Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	NeedTool(tb, name)
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Archive is the layer archive of a tree, with an entry for the root directory.
func Archive(tb testing.TB, dir string) []byte {
	tb.Helper()
	var b bytes.Buffer
	// A mode that no directory has: the root is described.
	if _, err := layer.Diff(context.Background(), &b, dir, layer.DiffOptions{Root: &layer.RootMeta{Mode: ^uint32(0)}}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// Unpack makes a tree of an archive.
func Unpack(tb testing.TB, archive []byte) string {
	tb.Helper()
	dir := tb.TempDir()
	if _, err := layer.Apply(context.Background(), dir, bytes.NewReader(archive), layer.ApplyOptions{}); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Same compares two archives, and tells in which entries they differ.
func Same(tb testing.TB, got, want []byte) {
	tb.Helper()
	if bytes.Equal(got, want) {
		return
	}
	a, b := describe(tb, got), describe(tb, want)
	shown := 0
	for i := range max(len(a), len(b)) {
		x, y := "nothing", "nothing"
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y && shown < 10 {
			shown++
			tb.Errorf("entry %d:\n got %s\nwant %s", i, x, y)
		}
	}
	if shown == 0 {
		tb.Error("the contents of files differ")
	}
}

func describe(tb testing.TB, archive []byte) (out []string) {
	for h, err := range layer.Entries(bytes.NewReader(archive)) {
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, line(h))
	}
	return out
}

func line(h *tar.Header) string {
	s := fmt.Sprintf("%q %c %o %d:%d size %d time %d dev %d:%d -> %q", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.Unix(), h.Devmajor, h.Devminor, h.Linkname)
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		s += fmt.Sprintf(" %s=%.40q", k, h.PAXRecords[k])
	}
	return s
}

// Mount mounts the image file read-only by a loop device, until the test ends.
func Mount(tb testing.TB, image, fstype string) string {
	tb.Helper()
	NeedRoot(tb)
	dir := tb.TempDir()
	if out, err := exec.Command("mount", "-o", "ro,loop", "-t", fstype, image, dir).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "loop device") || strings.Contains(string(out), "unknown filesystem") {
			Unavailable(tb, string(out))
		}
		tb.Fatalf("mount: %v\n%s", err, out)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Tree makes a tree with everything that a layer can hold, but sockets and access
// control lists: devices are devices, as in an image.
func Tree(tb testing.TB) string {
	tb.Helper()
	NeedRoot(tb)
	t := tree{tb, tb.TempDir()}
	t.check(os.Chmod(t.dir, 0o751))
	t.contents()
	t.specials()
	t.directories()
	t.check(filepath.WalkDir(t.dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mtime := unix.Timespec{Sec: 1_600_000_000 + int64(len(p))}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	return t.dir
}

type tree struct {
	testing.TB
	dir string
}

func (t tree) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t tree) path(name string) string { return filepath.Join(t.dir, name) }

func (t tree) write(name string, content []byte) {
	t.Helper()
	t.check(os.MkdirAll(filepath.Dir(t.path(name)), 0o755))
	t.check(os.WriteFile(t.path(name), content, 0o644))
}

// contents makes files that differ in their bytes.
func (t tree) contents() {
	noise := make([]byte, 5<<20+123)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise) // never fails
	text := []byte(strings.Repeat("all work and no play makes a dull layer\n", 40000))
	for name, b := range map[string][]byte{
		"data/empty": nil, "data/one": {1}, "data/noise": noise, "data/text": text, "data/same-text": text,
		"data/block": text[:128<<10], "data/blocks": noise[:256<<10], "data/block+1": text[:128<<10+1], "data/same-blocks": noise[:256<<10],
		"data/4095": noise[:4095], "data/4096": noise[:4096], "data/4097": noise[:4097],
		"data/other-end": append(slices.Clone(text), 'x'), "data/zeros": make([]byte, 300_000), "data/same-end": noise[:4097],
	} {
		t.write(name, b)
	}
	t.write("data/holes", nil)
	t.check(os.Truncate(t.path("data/holes"), 9<<20))
	f, err := os.OpenFile(t.path("data/holes"), os.O_WRONLY, 0)
	t.check(err)
	_, err = f.WriteAt(noise[:5000], 3<<20+77)
	t.check(err)
	_, err = f.WriteAt(noise[:5000], 8<<20)
	t.check(err)
	t.check(f.Close())
}

// specials makes what is not a plain file.
func (t tree) specials() {
	t.write("special/file", []byte("many names"))
	for _, name := range []string{"special/also", "a-first-name", "zz-last-name"} {
		t.check(os.Link(t.path("special/file"), t.path(name)))
	}
	t.check(os.Symlink("/etc/../target", t.path("special/link")))
	t.check(os.Symlink(strings.Repeat("long/", 800), t.path("special/long-link")))
	t.check(os.Link(t.path("special/link"), t.path("special/same-link")))
	t.check(os.Lchown(t.path("special/link"), 3, 70000))
	t.check(unix.Mkfifo(t.path("special/fifo"), 0o622))
	t.check(unix.Mknod(t.path("special/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	t.check(unix.Mknod(t.path("special/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	t.check(unix.Mknod(t.path("special/gone"), unix.S_IFCHR, 0))
	t.check(os.Link(t.path("special/gone"), t.path("special/gone-too"))) // as overlays do
	t.write("special/suid", []byte("#!"))
	t.check(os.Chown(t.path("special/suid"), 70001, 7))
	t.check(unix.Chmod(t.path("special/suid"), 0o6751))
	// What setcap cap_net_raw+ep gives.
	t.check(unix.Setxattr(t.path("special/file"), "security.capability", []byte("\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	for i, name := range []string{"special/file", "special/suid", "data/one", "data/4096"} {
		t.check(unix.Setxattr(t.path(name), "user.same", []byte("same"), 0))
		t.check(unix.Setxattr(t.path(name), "user.binary", bytes.Repeat([]byte{0, byte(i / 2)}, 300), 0))
	}
}

// directories makes large, deep, odd and opaque ones.
func (t tree) directories() {
	for i := range 3000 {
		t.write(fmt.Sprintf("large/%s-%05d", strings.Repeat("name", 1+i%20), i), fmt.Appendf(nil, "%d", i))
	}
	t.check(os.MkdirAll(t.path("deep/"+strings.Repeat("d/", 100)), 0o755))
	t.check(os.MkdirAll(t.path("opaque/empty"), 0o755))
	t.check(os.Chmod(t.path("opaque/empty"), 0o1777))
	t.check(unix.Setxattr(t.path("opaque"), "user.overlay.opaque", []byte("y"), 0))
	t.check(unix.Setxattr(t.path("opaque"), "user.overlay.overlay.nested", []byte("n"), 0))
	t.write("a!", nil) // before "a/" in the order of paths, but not of names
	t.write("a/b", nil)
	t.write("odd/"+strings.Repeat("n", 255), []byte("long name"))
	t.write("odd/\xff\n\t\\\"é", []byte("no text"))
}
