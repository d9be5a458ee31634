// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/source/localtree"
)

// addCopies adds to a key what copies bring, where to and with which attributes.
// Times and owners of the sources are not part of it, names only where they show.
func addCopies(in *cache.Ingredients, copies []graph.Copy, results []cache.Result) {
	for _, c := range copies {
		name := "import " + c.Name
		to := c.Dest
		if c.IntoDir {
			to = path.Join(c.Dest, c.Name)
		}
		in.Add(name+" dest", to)
		if c.Mode != nil {
			in.Add(name+" mode", fmt.Sprintf("%#o", *c.Mode))
		}
		if c.UID != nil {
			in.Add(name+" uid", strconv.Itoa(*c.UID))
		}
		if c.GID != nil {
			in.Add(name+" gid", strconv.Itoa(*c.GID))
		}
		r := results[c.Input]
		*in = append(*in, cache.Ingredient{Name: name, Value: r.Content, List: r.List})
	}
}

// copier writes copies as one tar stream.
type copier struct {
	b       *Builder
	w       *tar.Writer
	results []cache.Result
	clamp   *time.Time
	// keep names directories that exist below: their attributes stay.
	keep map[string]bool
}

// target is the absolute path that a source's top becomes.
func target(c graph.Copy) string {
	if c.IntoDir {
		return path.Join("/", c.Dest, c.Name)
	}
	return path.Join("/", c.Dest)
}

// scriptInput is the number of no input: the copy is an empty file for a
// step's script to be mounted over.
const scriptInput = -1

func (k *copier) write(ctx context.Context, c graph.Copy) error {
	if c.Input == scriptInput {
		return k.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: scriptName, Mode: 0o755})
	}
	r := k.results[c.Input]
	if r.Pick != nil {
		return k.b.readPick(ctx, r.Pick, func(e entry) error { return k.entry(c, e) })
	}
	t, err := k.b.tree(ctx, r)
	if err != nil {
		return err
	}
	for i := range t.Entries {
		if err := plainName(path.Join(target(c), t.Entries[i].Path)); err != nil {
			return err
		}
	}
	return t.WriteTar(ctx, k.w, localtree.TarOptions{
		Name:   func(e localtree.Entry) (string, bool) { return k.name(c, e.Path, e.IsDir()) },
		Header: func(h *tar.Header) { k.attributes(c, h) },
	})
}

// name gives an entry its place in the image; false leaves it out.
func (k *copier) name(c graph.Copy, rel string, dir bool) (string, bool) {
	to := path.Join(target(c), rel)
	if rel == "" && dir && (to == "/" || k.keep[to]) {
		return "", false
	}
	return strings.TrimPrefix(to, "/"), true
}

// plainName refuses what a layer would read as the removal of another file.
func plainName(name string) error {
	if strings.Contains(name+"/", "/.wh.") {
		return fmt.Errorf("import %s: a layer cannot hold a file whose name starts with %q: rename it", name, ".wh.")
	}
	return nil
}

// attributes decides on mode, owner and time of an entry.
func (k *copier) attributes(c graph.Copy, h *tar.Header) {
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	if c.UID != nil {
		h.Uid = *c.UID
	}
	if c.GID != nil {
		h.Gid = *c.GID
	}
	if c.Mode != nil && h.Typeflag == tar.TypeReg {
		h.Mode = int64(*c.Mode)
	}
	if k.clamp != nil {
		h.ModTime = *k.clamp
	}
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
}

// entry passes an entry of another root file system on.
func (k *copier) entry(c graph.Copy, e entry) error {
	h := *e.header
	if err := plainName(path.Join(target(c), e.name)); err != nil {
		return err
	}
	name, ok := k.name(c, e.name, h.Typeflag == tar.TypeDir)
	if !ok {
		return nil
	}
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.Typeflag == tar.TypeLink { // the target is an entry of the same stream
		h.Linkname, _ = k.name(c, strings.Trim(path.Clean("/"+h.Linkname), "/"), false)
	}
	k.attributes(c, &h)
	h.Format = tar.FormatPAX
	if err := k.w.WriteHeader(&h); err != nil {
		return fmt.Errorf("copy %s: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return e.copyTo(k.w)
}

// writeCopies streams copies to out as a tar.
func (b *Builder) writeCopies(ctx context.Context, out io.Writer, copies []graph.Copy, results []cache.Result, clamp *time.Time, keep map[string]bool) error {
	k := &copier{b: b, w: tar.NewWriter(out), results: results, clamp: clamp, keep: keep}
	for _, c := range copies {
		if err := k.write(ctx, c); err != nil {
			return err
		}
	}
	if err := k.w.Close(); err != nil {
		return fmt.Errorf("copy files: %w", err)
	}
	return nil
}
