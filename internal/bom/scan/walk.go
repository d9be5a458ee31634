// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"crypto/sha1" //nolint:gosec // SPDX 2.3 names files by it
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
)

// walk lists the regular files and the symbolic links of the tree.
func (s *scanner) walk() error {
	top, err := s.root.Dir()
	if err != nil {
		return err
	}
	defer top.Close()
	if err := s.directory(top, ""); err != nil {
		return err
	}
	slices.SortFunc(s.order, func(a, b *file) int { return strings.Compare(a.path, b.path) })
	return nil
}

func (s *scanner) directory(d *rootfs.Dir, prefix string) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	list, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := s.entry(d, e.Name, prefix+e.Name); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) entry(d *rootfs.Dir, leaf, name string) error {
	st, err := d.Lstat(leaf)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := d.OpenDir(leaf)
		if err != nil {
			return err
		}
		defer sub.Close()
		return s.directory(sub, name+"/")
	case unix.S_IFLNK:
		s.links[name], err = d.Readlink(leaf)
		return err
	case unix.S_IFREG:
		if layer.IsDevice(d, leaf, &st) {
			return nil
		}
		f := &file{path: name, size: st.Size, mode: st.Mode}
		s.files[name] = f
		s.order = append(s.order, f)
	}
	return nil
}

// unowned hashes the files that nothing owns.
func (s *scanner) unowned() error {
	for _, f := range s.order {
		if f.owned {
			continue
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		u := bom.File{Path: "/" + printable(f.path), Size: f.size}
		if err := s.sum(f, &u); err != nil {
			return fmt.Errorf("hash /%s: %w", f.path, err)
		}
		s.out.Unowned = append(s.out.Unowned, u)
	}
	return nil
}

func (s *scanner) sum(f *file, u *bom.File) error {
	r, err := s.root.OpenFile(f.path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	old, sum := sha1.New(), sha256.New() //nolint:gosec // see the import
	if _, err := io.Copy(io.MultiWriter(old, sum), r); err != nil {
		return err
	}
	u.SHA1 = hex.EncodeToString(old.Sum(nil))
	u.Digest = digest.NewDigest(digest.SHA256, sum)
	return nil
}

// printable writes bytes that are no UTF-8 as \xNN, so that two names stay two.
func printable(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "\\x%02x", s[0])
		} else {
			b.WriteRune(r)
		}
		s = s[n:]
	}
	return b.String()
}
