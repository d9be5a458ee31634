// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountOverlay mounts trees, bottom first, in a mount namespace of the calling
// goroutine's thread, which ends with the test.
func mountOverlay(t *testing.T, trees []string, upper string) (merged string) {
	t.Helper()
	base := t.TempDir()
	merged = base + "/merged"
	if err := os.Mkdir(merged, 0o755); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // never unlocked: the thread is thrown away
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		unavailable(t, "needs a mount namespace: "+err.Error())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	down := slices.Clone(trees)
	slices.Reverse(down)
	options := "userxattr,lowerdir=" + strings.Join(down, ":")
	if upper != "" {
		work := base + "/work"
		if err := os.Mkdir(work, 0o755); err != nil {
			t.Fatal(err)
		}
		options += ",upperdir=" + upper + ",workdir=" + work
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		unavailable(t, "needs an overlay file system: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return merged
}

// overlayLayers has everything that layers do to each other.
func overlayLayers(t *testing.T) [][]byte {
	return [][]byte{
		pack(t, dir("a", 0o750), file("a/f", "0"), file("a/g", "0"), dir("o", 0o755), file("o/f", "0"), file("o/sub/f", "0"), file("gone/f", "0"),
			file("file2dir", "0"), file("dir2file/f", "0"), dir("usr/lib", 0o711), symlink("lib", "usr/lib"), file("back/f", "0"), file("x/y/z", "0")),
		pack(t, file("a/.wh.g", ""), file("o/.wh..wh..opq", ""), file("o/k", "1"), file(".wh.gone", ""), dir("file2dir", 0o755), file("file2dir/f", "1"),
			file("dir2file", "1"), file("lib/new", "1"), file(".wh.back", ""), hardlink("a/h", "a/f"), char("dev", 1, 3),
			file("marks/f", "1"), dir("marks", 0o755).xattr("user.overlay.opaque", "y"), file("x/y/w", "1")),
		pack(t, file("marks/g", "2"), file("back/g", "2"), file(".wh.lib", ""), file("x/.wh.y", ""), file("x/y/v", "2")),
	}
}

// TestKernelAgrees compares what Lookup finds with what the kernel shows.
func TestKernelAgrees(t *testing.T) {
	trees, _, err := applyAll(t, t.TempDir(), ApplyOptions{}, overlayLayers(t)...)
	if err != nil {
		t.Fatal(err)
	}
	merged := mountOverlay(t, trees, "")
	names := map[string]bool{}
	for _, top := range append([]string{merged}, trees...) {
		err := filepath.WalkDir(top, func(p string, _ fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(top, p)
			names[rel] = true
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range names {
		f, err := Lookup(trees, name, false)
		var st unix.Stat_t
		kernelErr := unix.Lstat(filepath.Join(merged, name), &st)
		switch {
		case (err == nil) != (kernelErr == nil):
			t.Errorf("%s: Lookup says %v, the kernel %v", name, err, kernelErr)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("%s: %v", name, err)
		case err == nil && (f.Stat.Mode != st.Mode || f.Stat.Mtim != st.Mtim || f.Stat.Uid != st.Uid):
			t.Errorf("%s: Lookup says %o %v, the kernel %o %v", name, f.Stat.Mode, f.Stat.Mtim, st.Mode, st.Mtim)
		}
	}
	want := map[string]bool{"a/f": true, "a/g": false, "a/h": true, "o/f": false, "o/k": true, "gone": false, "back/f": false, "back/g": true,
		"usr/lib/new": true, "lib": false, "marks/f": true, "marks/g": true, "x/y/z": false, "x/y/v": true, "dir2file": true, "file2dir/f": true}
	for name, exists := range want {
		if _, err := os.Lstat(filepath.Join(merged, name)); (err == nil) != exists {
			t.Errorf("%s in the mount: %v, want it to exist: %v", name, err, exists)
		}
	}
	// An attribute of the image is an attribute again, not a mark.
	if x := xattrs(t, merged+"/marks"); x["user.overlay.opaque"] != "y" {
		t.Errorf("attributes in the mount: %v, want user.overlay.opaque", x)
	}
}

// TestDiffOfUpper packs what the kernel wrote into an upper directory and applies
// it elsewhere: both mounts must look the same.
func TestDiffOfUpper(t *testing.T) {
	base := t.TempDir()
	trees, _, err := applyAll(t, base, ApplyOptions{}, overlayLayers(t)...)
	if err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(base, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	merged := mountOverlay(t, trees, upper)
	changes := []error{
		os.Remove(merged + "/a/f"),
		os.RemoveAll(merged + "/o"),
		os.Mkdir(merged+"/o", 0o700),
		os.WriteFile(merged+"/o/new", []byte("3"), 0o600),
		os.Link(merged+"/a/h", merged+"/linked"),
		os.Chmod(merged+"/usr/lib", 0o755),
		os.Rename(merged+"/dir2file", merged+"/x/moved"),
		os.Symlink("x", merged+"/sym"),
		os.RemoveAll(merged + "/file2dir"),
	}
	if err := errors.Join(changes...); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := Diff(context.Background(), &out, upper, DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(base, "tree-again")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	o := ApplyOptions{Lower: func() ([]string, error) { return trees, nil }}
	if _, err := Apply(context.Background(), tree, &out, o); err != nil {
		t.Fatal(err)
	}
	again := mountOverlay(t, append(slices.Clip(trees), tree), "")
	// Times of files that are now whole seconds differ; so do directories that
	// the mount itself touched.
	if got, want := outline(t, again), outline(t, merged); got != want {
		t.Errorf("after diff and apply:\n%s\nwant:\n%s", got, want)
	}
}

// outline lists names, modes, owners, link counts and contents.
func outline(t *testing.T, top string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(describeTree(t, top)) {
		for i, field := range strings.Fields(line) {
			if !strings.HasPrefix(field, "t") || i != 4 {
				b.WriteString(field + " ")
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
