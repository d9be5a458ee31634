// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"build.stacker.dev/internal/fileop/action"
)

// archiveOf makes an archive of entries whose content is their name.
func archiveOf(f *testing.F, entries ...tar.Header) []byte {
	f.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// FuzzExtract: whatever an archive says, nothing outside of the directory changes, and
// what is there can be removed.
func FuzzExtract(f *testing.F) {
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, tar.Header{Typeflag: tar.TypeReg, Name: "d/f"},
		tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "d/f"}, tar.Header{Typeflag: tar.TypeFifo, Name: "p"}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "../outside"}, tar.Header{Typeflag: tar.TypeReg, Name: "out/f"},
		tar.Header{Typeflag: tar.TypeReg, Name: "../outside/g"}, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside/f"}))
	f.Add(archiveOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "a/b", Linkname: ".."},
		tar.Header{Typeflag: tar.TypeReg, Name: "b/outside/f"}, tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o4777}))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		outside := filepath.Join(dir, "outside")
		if err := errors.Join(os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "f"), []byte("mine"), 0o644),
			os.Mkdir(filepath.Join(dir, "in"), 0o755)); err != nil {
			t.Fatal(err)
		}
		_ = Extract(t.Context(), bytes.NewReader(data), open(t, filepath.Join(dir, "in"))) // most are refused
		names, err := os.ReadDir(outside)
		if err != nil || len(names) != 1 {
			t.Errorf("outside are %v, %v, want f", names, err)
		}
		got, err := os.ReadFile(filepath.Join(outside, "f"))
		if string(got) != "mine" || err != nil {
			t.Errorf("the file outside has %q, %v", got, err)
		}
		all, err := os.ReadDir(dir)
		if err != nil || len(all) != 2 {
			t.Errorf("beside are %v, %v", all, err)
		}
	})
}

// FuzzChoose: whatever a copy asks for, it takes files of the tree and nothing else.
func FuzzChoose(f *testing.F) {
	for _, s := range [][3]string{
		{"/a", "", ""}, {"*/x.go", "", "**/y*"}, {"/", "a/**", "!a/b"}, {"up/../[a-c]*", "", ""}, {"loop/x", "l*p", "["}, {`a\*`, "", `\`},
	} {
		f.Add(s[0], s[1], s[2], true, true)
	}
	f.Fuzz(func(t *testing.T, src, include, exclude string, wildcard, follow bool) {
		if len(src)+len(include)+len(exclude) > 200 {
			return // patterns become regular expressions, which bound themselves
		}
		all := tree("a/", "a/b/", "a/b/x.go", "a/b/y.md", "a/l -> b", "c.go", "up -> ../../a/b", "loop -> loop")
		c := action.Copy{Src: src, Wildcard: wildcard, FollowLinks: follow}
		if include != "" {
			c.Include = []string{include}
		}
		if exclude != "" {
			c.Exclude = []string{exclude}
		}
		_ = Choose(all, &c, func(p, _ string) error { // many are mistakes
			if all.entries[p] == nil {
				t.Errorf("%q is not in the tree", p)
			}
			return nil
		})
	})
}
