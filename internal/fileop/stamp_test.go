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
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDraft(DraftOptions{Now: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Draft: d, Inputs: map[int]*Tree{1: ListTree(entries, root, "", "")}}
		if err := Do(t.Context(), o, []action.Action{{Copy: &action.Copy{Input: 1, Src: "/f", Dest: "/f"}}}); err != nil {
			t.Fatal(err)
		}
		_, _, err = d.Archive(t.Context(), io.Discard)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, localtree.ErrChanged) {
			t.Errorf("%s: got %v, want ok %v", tt.name, err, tt.ok)
		}
		d.Close()
		_ = root.Close()
	}
}
