// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// No two different lists may have one key, however their texts join.
func TestKeyFraming(t *testing.T) {
	lists := []Ingredients{
		nil,
		{{Name: "a", Value: "b"}},
		{{Name: "ab"}},
		{{Name: "", Value: "ab"}},
		{{Name: "a"}, {Name: "b"}},
		{{Name: "a", Value: "b"}, {Name: "c", Value: "d"}},
		{{Name: "c", Value: "d"}, {Name: "a", Value: "b"}},
		{{Name: "a", Value: "b\x00c"}, {Name: "", Value: "d"}},
	}
	seen := map[Key]int{}
	for i, l := range lists {
		if j, ok := seen[l.Key()]; ok {
			t.Errorf("lists %d and %d have the same key", i, j)
		}
		seen[l.Key()] = i
	}
	with := Ingredients{{Name: "a", Value: "b", List: "somewhere"}}
	if with.Key() != lists[1].Key() {
		t.Error("where a listing is kept changes the key")
	}
}

func record(value string) *Record {
	in := Ingredients{{Name: "script", Value: value}}
	return &Record{Step: "s", Key: in.Key(), Created: time.Unix(1, 0).UTC(), Ingredients: in, Result: Result{Content: "c"}}
}

// A record that is damaged in any way counts as absent, and can be written again.
func TestDamage(t *testing.T) {
	whole := func(t *testing.T, s *Store, r *Record) string {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
		return s.keyPath(r.Key)
	}
	data, err := os.ReadFile(whole(t, open(t), record("x")))
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(p string) error{
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"half":      func(p string) error { return os.Truncate(p, int64(len(data)/2)) },
		"grown":     func(p string) error { return os.WriteFile(p, append(slices.Clone(data), ' '), 0o600) },
		"fifo":      func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"link":      func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
	}
	for i := range data {
		damages["bit flip in byte "+strconv.Itoa(i)] = func(p string) error {
			d := slices.Clone(data)
			d[i] ^= 4
			return os.WriteFile(p, d, 0o600)
		}
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s, r := open(t), record("x")
			if err := damage(whole(t, s, r)); err != nil {
				t.Fatal(err)
			}
			if got := s.Lookup(r.Key); got != nil {
				t.Errorf("Lookup of a damaged record = %+v, want nil", got)
			}
			if err := s.Put(r); err != nil {
				t.Errorf("Put over a damaged record: %v", err)
			}
			if s.Lookup(r.Key) == nil {
				t.Error("Lookup after Put = nil")
			}
		})
	}
}

// A record under another's name is no answer.
func TestWrongName(t *testing.T) {
	s, a, b := open(t), record("a"), record("b")
	if err := errors.Join(s.Put(a), s.Put(b)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.keyPath(a.Key), s.keyPath(b.Key)); err != nil {
		t.Fatal(err)
	}
	if got := s.Lookup(b.Key); got != nil {
		t.Errorf("Lookup = %+v, want nil", got)
	}
}

func TestCompare(t *testing.T) {
	old := Ingredients{{Name: "base", Value: "sha256:1"}, {Name: "script", Value: "a\nb\nc"}, {Name: "gone", Value: "x"}}
	new := Ingredients{{Name: "base", Value: "sha256:1"}, {Name: "script", Value: "a\nB\nc"}, {Name: "new", Value: "y"}}
	var lines []string
	for _, d := range Compare(old, new) {
		lines = append(lines, d.Lines()...)
	}
	want := []string{"script changed:", "  - b", "  + B", "new is new: y", "gone is gone: x"}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// Values are shown as people can read them.
func TestLinesShort(t *testing.T) {
	sum := strings.Repeat("0123456789abcdef", 4)
	d := Difference{Name: "import", Old: "pick:" + sum, New: "sha256:" + sum}
	if got, want := d.Lines(), []string{"import changed: pick:0123456789ab → sha256:0123456789ab"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	d = Difference{Name: "command", Old: "/bin/sh\x00-c\x00a", New: "/bin/sh\x00-c\x00b"}
	if got, want := d.Lines(), []string{"command changed: /bin/sh -c a → /bin/sh -c b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLastAndLists(t *testing.T) {
	s, r := open(t), record("x")
	if s.Last("step") != nil {
		t.Error("Last of a new step is not nil")
	}
	if err := s.SetLast("step", r); err != nil {
		t.Fatal(err)
	}
	if got := s.Last("step"); got == nil || got.Key != r.Key || got.Result.Content != "" {
		t.Errorf("Last = %+v, want the ingredients without the result", got)
	}
	name, err := s.PutList([]byte("listing"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.List(name); string(got) != "listing" {
		t.Errorf("List = %q", got)
	}
	if err := os.WriteFile(s.listPath(name), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.List(name); got != nil {
		t.Errorf("List of a damaged listing = %q, want nil", got)
	}
}

func TestLock(t *testing.T) {
	s, k := open(t), record("x").Key
	unlock, err := s.Lock(context.Background(), k, nil)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		u, err := s.Lock(context.Background(), k, func() { close(waited) })
		if err == nil {
			u()
		}
		done <- err
	}()
	<-waited
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
