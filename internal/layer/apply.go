// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ApplyOptions say how a layer is unpacked. The zero value is right for a base
// layer where all ids can be set.
type ApplyOptions struct {
	// SingleID says that files can have no owner but the caller: other owners
	// are noted in an attribute (package record).
	SingleID bool

	// Lower gives the trees of the layers below, bottom first; nil: there are
	// none. They are read for directories that the layer leaves out and for hard
	// links to files that it does not bring. It is called once, at the first
	// such need, and may wait until the trees are there.
	Lower func() ([]string, error)

	// NamesOnly leaves out what regular files hold and all of their attributes but
	// the mode: the tree tells which names there are, where links lead and what
	// directories are like. Of the files of WithContent all is there.
	NamesOnly bool

	Limits Limits
}

// WithContent tells whether a tree of names has all of the regular file at a place:
// these say which owners have which names.
func WithContent(name string) bool { return name == "etc/passwd" || name == "etc/group" }

// ErrNamesOnly tells that a layer cannot be a tree of names.
var ErrNamesOnly = errors.New("the layer cannot be told by its names")

// Limits bound what a layer may hold; 0 is no limit.
type Limits struct {
	MaxBytes   int64 // of the archive, and of all its files together
	MaxEntries int
}

// An ApplyResult describes a layer that was unpacked.
type ApplyResult struct {
	DiffID  digest.Digest
	Size    int64 // of the archive, in bytes
	Entries int

	// SelfContained says that nothing but perhaps the root directory's own
	// attributes was taken from Lower: the tree is the same above any layers.
	SelfContained bool

	// HasRoot says that the archive describes the root directory. Otherwise the
	// tree's root is a copy of the topmost lower tree's.
	HasRoot bool

	// OpaqueRoot says that the layer hides everything below. The kernel does not
	// look for this mark in a layer's root: do not mount the layers below.
	OpaqueRoot bool

	// DroppedXattrs counts extended attributes that could not be kept.
	DroppedXattrs int
}

// copyBuffer is the unit in which file contents are written.
const copyBuffer = 256 << 10

// Apply unpacks the uncompressed layer archive r into dir, an empty directory
// that nothing else uses. It reads r to its end. On an error dir is left half
// filled, for the caller to remove.
//
// A later entry replaces an earlier one of the same name; a directory entry keeps
// a directory and gives it new attributes. Whiteouts hide only what is below the
// layer, wherever in the archive they stand. What is wrong with an entry is an
// EntryError. The umask may be anything but must not change meanwhile. Apply
// returns only when no Read of r is under way.
func Apply(ctx context.Context, dir string, r io.Reader, o ApplyOptions) (ApplyResult, error) {
	t, err := newTree(dir, o.Lower)
	if err != nil {
		return ApplyResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	defer t.close()
	src := newSource(ctx, r, o.Limits.MaxBytes)
	defer src.close()

	a := applier{
		tree:   t,
		tar:    tar.NewReader(src),
		opt:    o,
		copied: map[string]string{},
		buf:    make([]byte, copyBuffer),
	}
	if err := a.probe(); err != nil {
		return ApplyResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	if err := a.entries(ctx); err != nil {
		return ApplyResult{}, err
	}
	if err := a.finishDirs(); err != nil {
		return ApplyResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	res := ApplyResult{
		Entries:       a.count,
		SelfContained: !t.usedLower,
		HasRoot:       a.hasRoot,
		OpaqueRoot:    t.opaque["."],
		DroppedXattrs: t.droppedAttr,
	}
	if res.DiffID, res.Size, err = src.finish(); err != nil {
		return ApplyResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	return res, nil
}

// Entries reads the headers of the layer archive r in order. Names are cleaned
// ("." is the root) and checked as Apply does; whiteouts appear as in the archive.
func Entries(r io.Reader) func(yield func(*tar.Header, error) bool) {
	return func(yield func(*tar.Header, error) bool) {
		tr := tar.NewReader(r)
		for {
			hdr, err := nextEntry(tr)
			if err == io.EOF {
				return
			}
			if !yield(hdr, err) || err != nil {
				return
			}
		}
	}
}

// nextEntry reads the next header, with a clean name, that describes a file.
func nextEntry(tr *tar.Reader) (*tar.Header, error) {
	for {
		hdr, err := tr.Next()
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			if err := checkGlobal(hdr.PAXRecords); err != nil {
				return nil, err
			}
			continue
		}
		name, err := cleanName(hdr.Name)
		if err != nil {
			return nil, &EntryError{Name: hdr.Name, Err: err}
		}
		if err := checkHeader(hdr); err != nil {
			return nil, &EntryError{Name: hdr.Name, Err: err}
		}
		hdr.Name = name
		return hdr, nil
	}
}

// checkGlobal refuses a global header that changes what the entries after it are:
// some readers apply it, archive/tar and so we do not.
func checkGlobal(records map[string]string) error {
	for key := range records {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime":
			return fmt.Errorf("layer has a global header that sets %q: not supported", key)
		}
		if strings.HasPrefix(key, "GNU.sparse.") || strings.HasPrefix(key, "SCHILY.") {
			return fmt.Errorf("layer has a global header that sets %q: not supported", key)
		}
	}
	return nil
}

// checkHeader refuses what no file can be, and what readers of archives take in
// different ways: content behind an entry that has none.
func checkHeader(hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
	case tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if hdr.Size != 0 {
			return fmt.Errorf("%d bytes of content in an entry of type %q, which has none", hdr.Size, hdr.Typeflag)
		}
	default:
		return fmt.Errorf("entry type %q is not supported", hdr.Typeflag)
	}
	if hdr.Size < 0 {
		return fmt.Errorf("negative size %d", hdr.Size)
	}
	// The largest id is not an id: chown(2) takes it for "leave as it is".
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= record.NoID || int64(hdr.Gid) >= record.NoID {
		return fmt.Errorf("owner %d:%d is not valid", hdr.Uid, hdr.Gid)
	}
	return nil
}

// applier is one run of Apply.
type applier struct {
	*tree
	tar *tar.Reader
	opt ApplyOptions

	uid, gid uint32 // owner of what this process makes
	umask    uint32

	count   int
	bytes   int64
	hasRoot bool
	// Whiteouts in the order of their entries. Those in opaque directories go at the
	// end: they hide nothing, and an overlay lists them where it merges nothing.
	whiteouts []spot
	copied    map[string]string // place in Lower → place in this tree, for hard links
	buf       []byte
}

// probe makes and removes a directory to learn owner and umask of this process,
// which cannot be read without changing it for other goroutines.
func (a *applier) probe() error {
	if err := a.root.Chmod(".", 0o700); err != nil {
		return err
	}
	const name = "probe"
	if err := a.root.Mkdir(name, 0o777); err != nil {
		return err
	}
	st, err := a.root.Lstat(name)
	if err != nil {
		return err
	}
	a.uid, a.gid = st.Uid, st.Gid
	a.umask = 0o777 &^ st.Mode
	return a.root.Remove(name)
}

func (a *applier) entries(ctx context.Context) error {
	last := ""
	for {
		hdr, err := nextEntry(a.tar)
		var entryErr *EntryError
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &entryErr):
			return err
		case err != nil && last == "":
			return fmt.Errorf("read layer: %w", err)
		case err != nil:
			return fmt.Errorf("read layer after entry %q: %w", last, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.entry(ctx, hdr); err != nil {
			return &EntryError{Name: hdr.Name, Err: err}
		}
		last = hdr.Name
	}
}

// entry does one entry.
func (a *applier) entry(ctx context.Context, hdr *tar.Header) error {
	a.count++
	if n := a.opt.Limits.MaxEntries; n > 0 && a.count > n {
		return fmt.Errorf("more than %d entries", n)
	}
	a.bytes += hdr.Size
	if n := a.opt.Limits.MaxBytes; n > 0 && (hdr.Size > n || a.bytes > n) {
		return fmt.Errorf("files are larger than the limit of %d bytes", n)
	}
	if hdr.Name == "." {
		return a.rootEntry(hdr)
	}
	kind, victim, err := parseRemoval(hdr.Name)
	if err != nil || kind == ignored {
		return err
	}
	dir, leaf := splitName(hdr.Name)
	place, err := a.place(dir)
	if err != nil {
		return err
	}
	switch kind {
	case opaque:
		return a.setOpaque(place)
	case whiteout:
		return a.whiteout(place, victim)
	}
	return a.file(ctx, hdr, spot{place, leaf})
}

// whiteout hides name in the directory at place.
func (a *applier) whiteout(place, name string) error {
	d, err := a.dir(place)
	if err != nil {
		return err
	}
	err = makeWhiteout(d, name)
	if err == nil {
		a.whiteouts = append(a.whiteouts, spot{place, name})
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// This layer brings the name itself: it hides what is below, except that
	// directories would be merged.
	st, err := d.Lstat(name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return a.setOpaque(joinName(place, name))
}

func (a *applier) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("the root of the layer is not a directory")
	}
	a.hasRoot = true
	return a.describeDir(".", hdr)
}

// finishDirs gives all directories their final attributes, the deepest first:
// afterwards a directory may no longer be open to us.
func (a *applier) finishDirs() error {
	if err := a.dropWhiteouts(); err != nil {
		return err
	}
	if !a.hasRoot {
		if err := a.rootFromLower(); err != nil {
			return err
		}
	}
	places := make([]string, 0, len(a.meta))
	for p := range a.meta {
		places = append(places, p)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(places)))
	// "." sorts after some names and before others; it comes last.
	for _, p := range places {
		if p == "." {
			continue
		}
		if err := a.finishDir(p); err != nil {
			return &EntryError{Name: p, Err: err}
		}
	}
	if err := a.finishDir("."); err != nil {
		return &EntryError{Name: ".", Err: err}
	}
	return nil
}

// dropWhiteouts removes whiteouts that have nothing to hide, since their directory
// hides all that is below.
func (a *applier) dropWhiteouts() error {
	if len(a.opaque) == 0 {
		return nil
	}
	for _, w := range a.whiteouts {
		if !a.opaque[w.place] && !a.hidden(w.place) {
			continue
		}
		d, err := a.dir(w.place)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // a later entry took its place
		}
		if err != nil {
			return err
		}
		st, err := d.Lstat(w.leaf)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		gone := false
		if err == nil {
			gone, err = whiteoutAt(d, w.leaf, &st)
		}
		if err == nil && gone {
			err = d.Remove(w.leaf)
		}
		if err != nil {
			return &EntryError{Name: w.path(), Err: err}
		}
	}
	return nil
}

// rootFromLower describes the root directory when the archive does not.
func (a *applier) rootFromLower() error {
	a.meta["."] = defaultDir
	f, ok, err := a.below(".")
	if err != nil || !ok {
		return err
	}
	return a.copyDirMeta(f, ".")
}

func (a *applier) finishDir(place string) error {
	m := a.meta[place]
	fd, err := a.openFinal(place)
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := a.chown(fd, m.uid, m.gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, m.mode); err != nil {
		return fmt.Errorf("set mode %04o: %w", m.mode, err)
	}
	for name, value := range m.acls {
		if err := a.setXattr(fd, name, value); err != nil {
			return err
		}
	}
	if err := rootfs.Futimens(fd, m.mtime, m.mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// openFinal opens the directory at place, or returns -1 if a later entry of the
// archive replaced it or what it was in.
func (a *applier) openFinal(place string) (int, error) {
	if place == "." {
		d, err := a.root.Dir()
		if err != nil {
			return -1, err
		}
		return d.Fd(), nil
	}
	dir, leaf := splitName(place)
	d, err := a.dir(dir)
	fd := -1
	if err == nil {
		fd, err = d.OpenFd(leaf, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, nil
	}
	return fd, err
}
