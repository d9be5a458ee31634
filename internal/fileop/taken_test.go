// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
)

// planted is a file of a random tree: a directory "/", a link "->TARGET", another name
// "=PATH" of a file, or the bytes of a file.
type planted struct {
	what  string
	mode  os.FileMode
	owner int
	xattr string
}

// randomTree describes a tree. Parents are directories, and sort before what is in them.
func randomTree(r *rand.Rand) map[string]planted {
	out := map[string]planted{"a": {what: "/"}, "a/b": {what: "/"}, "d": {what: "/"}}
	for _, p := range []string{"a/b/f", "a/b/g", "a/f", "d/f", "d/link", "f", "g", "link", "z"} {
		if r.IntN(5) > 0 {
			out[p] = randomFile(r)
		}
	}
	return out
}

func randomFile(r *rand.Rand) planted {
	p := planted{what: pick(r, "one", "two", "", "->f", "->a", "->/d", "->../x", "=a/f", "=f"), mode: pick(r, os.FileMode(0o644), 0o600, 0o755), xattr: pick(r, "", "", "", "x")}
	if os.Geteuid() == 0 {
		p.owner = pick(r, 0, 0, 0, 5)
	}
	return p
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// plant makes the files, with times of their own.
func plant(t *testing.T, r *rand.Rand, files map[string]planted) string {
	t.Helper()
	dir := t.TempDir()
	var later []func() error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, p := files[name], filepath.Join(dir, name)
		var err error
		target, link := strings.CutPrefix(f.what, "->")
		other, same := strings.CutPrefix(f.what, "=")
		switch {
		case f.what == "/":
			err = os.Mkdir(p, 0o755)
		case link:
			err = os.Symlink(target, p)
		case same:
			err = os.Link(filepath.Join(dir, other), p)
			if err != nil { // not there yet, or itself
				err = os.WriteFile(p, nil, 0o644)
			}
		default:
			err = os.WriteFile(p, []byte(f.what), 0o600)
			if err == nil {
				err = os.Chmod(p, f.mode)
			}
			if err == nil && f.xattr != "" {
				err = unix.Setxattr(p, "user.test", []byte(f.xattr), 0)
			}
		}
		if err == nil && f.owner != 0 {
			err = os.Lchown(p, f.owner, f.owner)
		}
		if err != nil {
			t.Fatal(err)
		}
		at := unix.NsecToTimespec(r.Int64N(1e18))
		later = append(later, func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
		})
	}
	for _, f := range slices.Backward(later) {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mutate changes some files, which may be none.
func mutate(r *rand.Rand, files map[string]planted) map[string]planted {
	out := maps.Clone(files)
	for range r.IntN(3) {
		p := pick(r, "a/b/f", "a/f", "d/f", "f", "g", "z", "d/new")
		switch f, ok := out[p]; {
		case r.IntN(4) == 0:
			delete(out, p)
		case ok && r.IntN(2) == 0:
			f.mode, f.xattr = 0o640, "y"
			out[p] = f
		default:
			out[p] = randomFile(r)
		}
	}
	return out
}

func randomCopy(r *rand.Rand) action.Action {
	c := action.Copy{
		Input: 1, Src: pick(r, "/", "/a", "a/b", "f", "*", "?/f", "link", "d/link", "z"), Dest: pick(r, "/", "/x", "/x/", "/etc/sub/", "/to/", "/f"),
		FollowLinks: r.IntN(2) == 0, ContentsOnly: r.IntN(3) == 0, Wildcard: true, AllowNone: r.IntN(2) == 0, MakeDest: true, Replace: r.IntN(2) == 0,
		Include: pick(r, nil, nil, nil, []string{"**/f"}), Exclude: pick(r, nil, nil, []string{"**/g"}, []string{"b"}), Time: new(int64),
	}
	if r.IntN(3) == 0 {
		c.ModeText = "u=rwX,go=rX"
	}
	return action.Action{Copy: &c}
}

// digestOf does actions on trees; empty where that fails or cannot be told.
func digestOf(t *testing.T, source string, lower []string, actions []action.Action) string {
	t.Helper()
	d, err := NewDraft(DraftOptions{Lower: lower, Now: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = Do(t.Context(), Options{Draft: d, Inputs: map[int]*Tree{1: RootTree(open(t, source))}}, actions)
	if err != nil {
		return ""
	}
	res, withRoot, err := d.Archive(t.Context(), nil)
	if err != nil {
		return ""
	}
	return fmt.Sprint(res.DiffID, withRoot)
}

// TestTaken: wherever Taken sees no difference between two trees, copies out of them make the same
// layer, on every base; and it sees none between trees that differ in nothing but times.
func TestTaken(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	base := plant(t, r, map[string]planted{"etc": {what: "/"}, "etc/f": {what: "base", mode: 0o644}, "to": {what: "->etc"}, "x": {what: "/"}, "x/a": {what: "/"}})
	equal, different, changed := 0, 0, 0
	for range 120 {
		one := randomTree(r)
		two := mutate(r, one)
		a, b := plant(t, r, one), plant(t, r, two)
		actions := []action.Action{randomCopy(r)}
		if r.IntN(2) == 0 {
			actions = append(actions, randomCopy(r))
		}
		taken := Taken(actions, map[int]bool{1: true})
		ta, tb := digestOf(t, a, nil, taken), digestOf(t, b, nil, taken)
		if maps.Equal(one, two) && ta != tb {
			t.Errorf("only times differ, but what %+v takes has other digests", actions)
		}
		if ta == "" || ta != tb {
			different++
			continue
		}
		equal++
		if !maps.Equal(one, two) {
			changed++
		}
		if la, lb := digestOf(t, a, []string{base}, actions), digestOf(t, b, []string{base}, actions); la != lb {
			t.Errorf("stale: what is taken has one digest, and the layers are %s and %s\nof %v\nand %v\nby %+v", la, lb, one, two, *actions[0].Copy)
		}
	}
	t.Logf("%d pairs with one digest, %d of them of other files; %d with two", equal, changed, different)
	if equal < 20 || different < 20 || changed < 8 {
		t.Errorf("too few pairs: %d with one digest, %d of them of other files; %d with two", equal, changed, different)
	}
}

// TestTakenKind: what the content of a source becomes depends on whether it is in a directory, also
// where the names and files below the destination would be the same.
func TestTakenKind(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	file, dir := planted{what: "one", mode: 0o644}, planted{what: "/"}
	for name, tt := range map[string]struct {
		one, two map[string]planted
		c        action.Copy
	}{
		"a file, or the only one of a directory": {
			map[string]planted{"a": file}, map[string]planted{"a": dir, "a/a": file},
			action.Copy{Src: "/a", Dest: "/new", FollowLinks: true, ContentsOnly: true, Wildcard: true},
		},
		"nothing, or an empty directory": {
			map[string]planted{}, map[string]planted{"a": dir},
			action.Copy{Src: "/a*", Dest: "/new/", ContentsOnly: true, Wildcard: true, AllowNone: true},
		},
	} {
		tt.c.Input, tt.c.MakeDest, tt.c.Time = 1, true, new(int64)
		actions := []action.Action{{Copy: &tt.c}}
		a, b := plant(t, r, tt.one), plant(t, r, tt.two)
		if la, lb := digestOf(t, a, nil, actions), digestOf(t, b, nil, actions); la == lb {
			t.Errorf("%s: the layers are the same, so this tests nothing", name)
		}
		taken := Taken(actions, map[int]bool{1: true})
		if ta, tb := digestOf(t, a, nil, taken), digestOf(t, b, nil, taken); ta == "" || ta == tb {
			t.Errorf("%s: what is taken has the digests %q and %q", name, ta, tb)
		}
	}
}
