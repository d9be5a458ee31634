// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plant makes the files of a tree: a name that ends in "/" is a directory. All get the same time.
func plant(t *testing.T, files ...[2]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, f[0])
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if f[0][len(f[0])-1] == '/' {
			err = os.MkdirAll(p, 0o755)
		} else if err == nil {
			err = os.WriteFile(p, []byte(f[1]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	old := time.Unix(1000, 5)
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(p, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDropUnchanged(t *testing.T) {
	bottom := plant(t, [2]string{"etc/same", "same"}, [2]string{"etc/grown", "a"}, [2]string{"only/below", "x"}, [2]string{"file", "f"})
	top := plant(t, [2]string{"etc/mode", "m"}, [2]string{"etc/attr", "a"}, [2]string{"etc/text", "old"}, [2]string{"var/lock", ""},
		[2]string{"opaque/in", "i"}, [2]string{"dated/", ""}, [2]string{"linked", "l"})
	upper := plant(t, [2]string{"etc/same", "same"}, [2]string{"etc/grown", "ab"}, [2]string{"only/below", "x"}, [2]string{"file/", ""},
		[2]string{"etc/mode", "m"}, [2]string{"etc/attr", "a"}, [2]string{"etc/text", "new"}, [2]string{"var/lock", ""},
		[2]string{"opaque/in", "i"}, [2]string{"dated/", ""}, [2]string{"linked", "l"}, [2]string{"new", "n"})
	at := func(name string) string { return filepath.Join(upper, name) }
	for _, err := range []error{
		os.Chmod(at("etc/mode"), 0o600),
		unix.Setxattr(at("etc/attr"), "user.test", []byte("1"), 0),
		unix.Setxattr(at("var/lock"), "user.overlay.origin", []byte("mark"), 0),
		unix.Setxattr(at("opaque"), xattrOpaque, []byte("y"), 0),
		os.Chtimes(at("dated"), time.Unix(2000, 0), time.Unix(2000, 0)),
		os.Link(at("linked"), at("other")),
		os.Chtimes(upper, time.Unix(1000, 5), time.Unix(1000, 5)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := DropUnchanged(t.Context(), upper, []string{bottom, top}); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(upper, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _ := filepath.Rel(upper, p); !d.IsDir() || name == "dated" || name == "file" || name == "opaque" {
			got = append(got, name)
		}
		if info, err := d.Info(); err != nil || p != at("dated") && info.ModTime() != time.Unix(1000, 5) {
			t.Errorf("%s: time %v, %v; want that it stays", p, info.ModTime(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"dated", "etc/attr", "etc/grown", "etc/mode", "etc/text", "file", "linked", "new", "opaque", "opaque/in", "other"}
	if !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
}

// TestSeparate gives a directory's file a name outside of it.
func TestSeparate(t *testing.T) {
	outer := plant(t, [2]string{"cache/shared", "old"}, [2]string{"cache/sub/inside", "inside"}, [2]string{"cache/alone", "alone"})
	at := func(name string) string { return filepath.Join(outer, name) }
	for old, name := range map[string]string{"cache/shared": "outside", "cache/sub/inside": "cache/again"} {
		if err := os.Link(at(old), at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Chmod(at("outside"), 0o4711); err != nil {
		t.Fatal(err)
	}
	if err := Separate(t.Context(), at("cache")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("outside"), []byte("changed"), 0); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		text  string
		links uint64
	}{"cache/shared": {"old", 1}, "outside": {"changed", 1}, "cache/sub/inside": {"inside", 2}, "cache/again": {"inside", 2}, "cache/alone": {"alone", 1}} {
		var st unix.Stat_t
		text, err := os.ReadFile(at(name))
		if err == nil {
			err = unix.Stat(at(name), &st)
		}
		if err != nil || string(text) != want.text || uint64(st.Nlink) != want.links {
			t.Errorf("%s: %q with %d names, %v; want %q with %d", name, text, st.Nlink, err, want.text, want.links)
		}
		if name == "cache/shared" && st.Mode&0o7777 != 0o4711 {
			t.Errorf("%s: mode %o, want 4711", name, st.Mode&0o7777)
		}
	}
	if names, err := os.ReadDir(at("cache")); err != nil || len(names) != 4 {
		t.Errorf("left in the directory: %v, %v; want 4 names", names, err)
	}
}
