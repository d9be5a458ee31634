// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"build.stacker.dev/internal/snapshot"
)

// TestTakeBack has a worker end while caches are in the roots of steps, and looks at what the next
// session finds.
func TestTakeBack(t *testing.T) {
	name := func(c string) string { return strings.Repeat(c, 64) }
	for _, c := range []struct {
		name string
		do   func(t *testing.T, root, home string) // after the directory was moved to root/cache
		want string                                // content of the file in the cache; empty: there is no cache
	}{
		{"in place", func(*testing.T, string, string) {}, "kept"},
		{"not moved yet", func(t *testing.T, root, home string) { move(t, root+"/cache", home) }, "kept"},
		{"moved by the step", func(t *testing.T, root, _ string) {
			mkdir(t, root+"/a/b")
			move(t, root+"/cache", root+"/a/b/other")
		}, "kept"},
		{"removed by the step", func(t *testing.T, root, _ string) {
			move(t, root+"/cache/file", root+"/file")
			remove(t, root+"/cache")
		}, ""},
		{"a new one is empty", func(t *testing.T, _, home string) { mkdir(t, home) }, "kept"},
		{"a new one has something", func(t *testing.T, _, home string) { mkdir(t, home); write(t, home+"/file", "new") }, "new"},
		{"outside by a link", func(t *testing.T, root, _ string) {
			move(t, root+"/cache", "elsewhere")
			if err := os.Symlink("../../../elsewhere", root+"/cache"); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"the note is torn", func(t *testing.T, root, _ string) { write(t, root+"/../"+lentFile, `[{"Cache":"`) }, ""},
		{"the note is of another name", func(t *testing.T, root, _ string) {
			write(t, root+"/../"+lentFile, `[{"Cache":"../../x.0","Ino":1},{"Cache":"x"},{"Cache":"`+name("a")+`.-1"}]`)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			mkdir(t, activeDir)
			old, err := newSession()
			if err != nil {
				t.Fatal(err)
			}
			id := old.newID()
			root := filepath.Join(activeDir, id, "root")
			home, err := cachePath(name("a"), 0)
			if err != nil {
				t.Fatal(err)
			}
			mkdir(t, root)
			mkdir(t, home)
			write(t, home+"/file", "kept")
			if err := lend(snapshot.Active{Root: root}, []string{home}); err != nil {
				t.Fatal(err)
			}
			move(t, home, root+"/cache")
			c.do(t, root, home)
			_ = old.file.Close() // as the kernel does with what is killed

			next, err := newSession()
			if err != nil {
				t.Fatal(err)
			}
			defer next.end()
			var dropped []string
			next.collect(takeBack, func(id string) { dropped = append(dropped, id) })
			if !slices.Equal(dropped, []string{id}) {
				t.Errorf("dropped %v, want %s", dropped, id)
			}
			got, err := os.ReadFile(home + "/file")
			if string(got) != c.want || (c.want == "") != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the cache has %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func mkdir(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(name, 0o755); err != nil {
		t.Fatal(err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
