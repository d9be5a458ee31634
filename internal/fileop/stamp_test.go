// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// TestStamp copies a file whose listing has another digest: that is not noticed where
// the file is as it was stamped, for then it is not hashed, and always elsewhere.
func TestStamp(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	if err := os.WriteFile(p, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		t.Fatal(err)
	}
	stamp := localtree.Stamp{Dev: st.Dev, Ino: st.Ino, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}
	later := stamp
	later.CTime++
	for _, tt := range []struct {
		name  string
		stamp localtree.Stamp
		text  string // that the digest is of
		size  int64
		ok    bool
	}{
		{"as it was", stamp, "else", 4, true},
		{"no stamp", localtree.Stamp{}, "else", 4, false},
		{"no stamp, right digest", localtree.Stamp{}, "text", 4, true},
		{"changed since", later, "else", 4, false},
		{"changed since, right digest", later, "text", 4, true},
		{"another size", stamp, "tex", 3, true}, // what is beyond was not asked for
		{"another size and digest", stamp, "els", 3, false},
	} {
		entries := []localtree.Entry{
			{Mode: unix.S_IFDIR | 0o755},
			{Path: "f", Mode: unix.S_IFREG | 0o644, Size: tt.size, Digest: digest.FromString(tt.text), Stamp: tt.stamp},
		}
		err := archived(t, dir, entries)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, localtree.ErrChanged) {
			t.Errorf("%s: got %v, want ok %v", tt.name, err, tt.ok)
		}
	}
}

// TestReplacedSince copies a file in whose place there is something else by now. A file
// with a stamp is read before it is looked at: nothing may wait for a FIFO, follow a
// link, or take for the file what is none.
func TestReplacedSince(t *testing.T) {
	for what, replace := range map[string]func(p string) error{
		"FIFO":      func(p string) error { return unix.Mkfifo(p, 0o644) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"link":      func(p string) error { return os.Symlink("other", p) },
		"shorter":   func(p string) error { return os.WriteFile(p, []byte("te"), 0o644) },
		"longer":    func(p string) error { return os.WriteFile(p, []byte("xtext"), 0o644) },
	} {
		dir := t.TempDir()
		p := filepath.Join(dir, "f")
		if err := os.WriteFile(filepath.Join(dir, "other"), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := replace(p); err != nil {
			t.Fatal(err)
		}
		for _, stamp := range []localtree.Stamp{{}, {Dev: 1, Ino: 2, MTime: 3, CTime: 4}} {
			entries := []localtree.Entry{
				{Mode: unix.S_IFDIR | 0o755},
				{Path: "f", Mode: unix.S_IFREG | 0o644, Size: 4, Digest: digest.FromString("text"), Stamp: stamp},
			}
			if err := archived(t, dir, entries); !errors.Is(err, localtree.ErrChanged) {
				t.Errorf("%s, stamp %v: got %v, want ErrChanged", what, stamp, err)
			}
		}
	}
}

// archived copies the listed file f of a directory into an archive.
func archived(t *testing.T, dir string, entries []localtree.Entry) error {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d, err := NewDraft(DraftOptions{Now: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	o := Options{Draft: d, Inputs: map[int]*Tree{1: ListTree(entries, root, "", "")}}
	if err := Do(t.Context(), o, []action.Action{{Copy: &action.Copy{Input: 1, Src: "/f", Dest: "/f"}}}); err != nil {
		t.Fatal(err)
	}
	_, _, err = d.Archive(t.Context(), io.Discard)
	return err
}
