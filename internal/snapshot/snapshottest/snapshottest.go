// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package snapshottest is the suite that every snapshot driver runs: what the
// comment of snapshot.Driver promises, one test each. It needs the rights to
// mount what the driver describes and to give files to other users.
package snapshottest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"build.stacker.dev/internal/snapshot"
)

// View shows an active snapshot as a directory while f runs, mounted as the
// driver describes it. Drivers differ in how; so their tests bring it.
type View func(t *testing.T, a snapshot.Active, f func(dir string))

// Run runs the suite on drivers that open makes, each on an empty directory.
func Run(t *testing.T, open func(t *testing.T) snapshot.Driver, view View) {
	tests := []struct {
		name string
		run  func(t *testing.T, d snapshot.Driver, view View)
	}{
		{"stack", testStack},
		{"immutable", testImmutable},
		{"commit twice", testCommitTwice},
		{"commit at once", testCommitAtOnce},
		{"discard anything", testDiscard},
		{"remove", testRemove},
		{"missing tree", testMissing},
		{"root attributes", testRoot},
		{"what a step does", testStep},
		{"not the step's work", testTouched},
		{"many layers", testMany},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open(t), view) })
	}
}

func tree(name byte) string {
	hex := make([]byte, 64)
	for i := range hex {
		hex[i] = name
	}
	return snapshot.LayerTree("sha256:" + string(hex))
}

// commit makes a tree on top of others by changing the view of an active snapshot.
func commit(t *testing.T, d snapshot.Driver, view View, name string, lower []string, change func(dir string)) {
	t.Helper()
	a, err := d.Prepare(t.Context(), snapshot.NewID(), lower)
	if err != nil {
		t.Fatalf("Prepare(%v): %v", lower, err)
	}
	begin(t, d, a)
	view(t, a, change)
	capture(t, d, a)
	if err := d.Commit(a, name); err != nil {
		t.Fatalf("Commit(%s): %v", name, err)
	}
	if !d.Exists(name) {
		t.Fatalf("Exists(%s) = false after Commit", name)
	}
}

func begin(t *testing.T, d snapshot.Driver, a snapshot.Active) {
	t.Helper()
	if err := d.Begin(t.Context(), a, nil); err != nil {
		t.Fatalf("Begin: %v", err)
	}
}

func capture(t *testing.T, d snapshot.Driver, a snapshot.Active) {
	t.Helper()
	if err := d.Capture(t.Context(), a); err != nil {
		t.Fatalf("Capture: %v", err)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// want compares what a stack of trees shows with the files wanted.
func want(t *testing.T, d snapshot.Driver, view View, lower []string, files map[string]string) {
	t.Helper()
	a, err := d.Prepare(t.Context(), snapshot.NewID(), lower)
	if err != nil {
		t.Fatalf("Prepare(%v): %v", lower, err)
	}
	view(t, a, func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != len(files) {
			t.Errorf("stack %v shows %d entries, want %d", lower, len(entries), len(files))
		}
		for name, content := range files {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(got) != content {
				t.Errorf("stack %v: %s is %q (%v), want %q", lower, name, got, err, content)
			}
		}
	})
	if err := d.Discard(a.ID); err != nil {
		t.Errorf("Discard: %v", err)
	}
}

func testStack(t *testing.T, d snapshot.Driver, view View) {
	one, two, three := tree('1'), tree('2'), tree('3')
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "1"); write(t, dir, "b", "1") })
	commit(t, d, view, two, []string{one}, func(dir string) { write(t, dir, "b", "2"); write(t, dir, "c", "2") })
	commit(t, d, view, three, []string{one, two}, func(dir string) {
		if err := os.Remove(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
	})
	want(t, d, view, []string{one}, map[string]string{"a": "1", "b": "1"})
	want(t, d, view, []string{one, two}, map[string]string{"a": "1", "b": "2", "c": "2"})
	want(t, d, view, []string{one, two, three}, map[string]string{"b": "2", "c": "2"})
}

func testImmutable(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "1") })
	a, err := d.Prepare(t.Context(), snapshot.NewID(), []string{one})
	if err != nil {
		t.Fatal(err)
	}
	view(t, a, func(dir string) {
		f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.WriteString("changed")
		if err := f.Close(); err != nil || werr != nil {
			t.Fatal(err, werr)
		}
	})
	if err := d.Discard(a.ID); err != nil {
		t.Fatal(err)
	}
	want(t, d, view, []string{one}, map[string]string{"a": "1"})
}

func testCommitTwice(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "first") })
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "second") })
	want(t, d, view, []string{one}, map[string]string{"a": "first"})
}

func testCommitAtOnce(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		a, err := d.Prepare(t.Context(), snapshot.NewID(), nil)
		if err != nil {
			t.Fatal(err)
		}
		begin(t, d, a)
		view(t, a, func(dir string) { write(t, dir, "a", "1") })
		capture(t, d, a)
		wg.Go(func() { errs[i] = d.Commit(a, one) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Errorf("Commit beside others: %v", err)
		}
	}
	want(t, d, view, []string{one}, map[string]string{"a": "1"})
}

func testDiscard(t *testing.T, d snapshot.Driver, view View) {
	a, err := d.Prepare(t.Context(), snapshot.NewID(), nil)
	if err != nil {
		t.Fatal(err)
	}
	view(t, a, func(dir string) {
		deep := filepath.Join(dir, "closed", "below")
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, deep, "file", "x")
		for _, p := range []string{deep, filepath.Dir(deep)} {
			if err := os.Chmod(p, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	for range 2 { // what does not exist is discarded too
		if err := d.Discard(a.ID); err != nil {
			t.Errorf("Discard: %v", err)
		}
	}
	if _, err := os.Lstat(a.Upper); !os.IsNotExist(err) {
		t.Errorf("after Discard %s is still there (%v)", a.Upper, err)
	}
}

func testRemove(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "1") })
	for range 2 {
		if err := d.Remove(one); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if d.Exists(one) {
		t.Error("Exists after Remove = true")
	}
}

func testMissing(t *testing.T, d snapshot.Driver, _ View) {
	if _, err := d.Prepare(t.Context(), snapshot.NewID(), []string{tree('9')}); err == nil {
		t.Error("Prepare over a tree that does not exist succeeded")
	}
}

func testRoot(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	})
	a, err := d.Prepare(t.Context(), snapshot.NewID(), []string{one})
	if err != nil {
		t.Fatal(err)
	}
	view(t, a, func(dir string) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o711 {
			t.Errorf("mode of the root above a tree with 0711 is %v (%v)", info.Mode(), err)
		}
	})
}
