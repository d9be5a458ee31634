// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// xattrTrustedOpaque is the opaque mark of overlays that root mounted.
const xattrTrustedOpaque = "trusted.overlay.opaque"

// trustedPrefix starts the attributes of overlays that root mounted.
const trustedPrefix = "trusted.overlay."

// FromArchive gives the entries of the layer archive r, which must be in Diff's
// form: sorted, with all directories. An archive of another origin becomes such
// by Apply and Diff. r is read to its end. What is wrong with an entry is an
// EntryError.
func FromArchive(r io.Reader) iter.Seq2[*Entry, error] {
	return Ordered(func(yield func(*Entry, error) bool) {
		if err := fromArchive(r, yield); err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	})
}

var errStopped = errors.New("nobody wants more entries")

func fromArchive(r io.Reader, yield func(*Entry, error) bool) error {
	tr := tar.NewReader(r)
	var dir *Entry // a directory whose opaque mark may follow
	give := func(e *Entry) error {
		if e != nil && !yield(e, nil) {
			return errStopped
		}
		return nil
	}
	for {
		hdr, err := nextEntry(tr)
		if err == io.EOF {
			if err := give(dir); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		kind, victim, err := parseRemoval(hdr.Name)
		if err != nil {
			return &EntryError{Name: hdr.Name, Err: err}
		}
		if kind == opaque {
			if dir, err = opaqueEntry(dir, hdr.Name); err != nil {
				return &EntryError{Name: hdr.Name, Err: err}
			}
			continue
		}
		if err := give(dir); err != nil {
			return err
		}
		dir = nil
		e, err := archiveEntry(tr, hdr, kind, victim)
		switch {
		case err != nil:
			return &EntryError{Name: hdr.Name, Err: err}
		case e != nil && e.IsDir():
			dir = e
			continue
		}
		if err := give(e); err != nil {
			return err
		}
	}
}

// opaqueEntry marks the directory that was described just before.
func opaqueEntry(dir *Entry, name string) (*Entry, error) {
	in, _ := splitName(name)
	if dir == nil && in == "." {
		dir = &Entry{Name: ".", Mode: unix.S_IFDIR | defaultDir.mode}
	}
	if dir == nil || dir.Name != in {
		return nil, errOrder
	}
	dir.setXattr(xattrOpaque, "y")
	return dir, nil
}

// archiveEntry makes an entry of what an archive has; nil if it has no meaning.
func archiveEntry(content io.Reader, hdr *tar.Header, kind removal, victim string) (*Entry, error) {
	dir, _ := splitName(hdr.Name)
	switch kind {
	case whiteout:
		return &Entry{Name: joinName(dir, victim), Mode: unix.S_IFCHR}, nil
	case ignored:
		return nil, nil
	}
	e := &Entry{
		Name: hdr.Name, Mode: uint32(hdr.Mode) & modeBits,
		UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), ModTime: hdr.ModTime.Unix(),
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			if disk, ok := diskXattr(name); ok {
				e.setXattr(disk, value)
			}
		}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		e.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		e.Mode, e.Target = e.Mode|unix.S_IFLNK, hdr.Linkname
	case tar.TypeFifo:
		e.Mode |= unix.S_IFIFO
	case tar.TypeLink:
		link, err := cleanName(hdr.Linkname)
		if err != nil || link == "." {
			return nil, fmt.Errorf("hard link to %q is not valid", hdr.Linkname)
		}
		e.HardLink = link
	case tar.TypeChar, tar.TypeBlock:
		return e, deviceEntry(e, hdr)
	default:
		e.Mode, e.Size, e.Content = e.Mode|unix.S_IFREG, hdr.Size, content
	}
	return e, nil
}

func deviceEntry(e *Entry, hdr *tar.Header) (err error) {
	e.Mode |= unix.S_IFCHR
	if hdr.Typeflag == tar.TypeBlock {
		e.Mode = e.Mode&modeBits | unix.S_IFBLK
	}
	if e.Major, err = deviceNumber(hdr.Devmajor); err != nil {
		return err
	}
	if e.Minor, err = deviceNumber(hdr.Devminor); err != nil {
		return err
	}
	if e.IsWhiteout() {
		return errors.New("a device 0:0 would be a whiteout")
	}
	return nil
}

// ToArchive writes entries as a layer archive in Diff's form to w: the archive of
// a tree, its image and the archive of that image are the same, byte for byte,
// save what the image cannot hold. Marks of a privileged overlay are understood
// too. Sockets are left out, as are attributes that no layer keeps. What is wrong
// with an entry is an EntryError.
func ToArchive(ctx context.Context, w io.Writer, entries iter.Seq2[*Entry, error]) error {
	out := &archiver{w: w}
	left := map[string]bool{} // sockets that have several names
	for e, err := range Ordered(entries) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if left[e.HardLink] || e.HardLink == "" && e.Mode&unix.S_IFMT == unix.S_IFSOCK {
			left[e.Name] = true
			continue
		}
		if err := out.entry(e); err != nil {
			return &EntryError{Name: e.Name, Err: err}
		}
	}
	_, err := w.Write(make([]byte, 2*blockSize))
	return err
}

// archiver is one run of ToArchive.
type archiver struct {
	w       io.Writer
	head    headers
	body    bounded         // of the entry under way
	padding [blockSize]byte // zeros
}

func (a *archiver) header(hdr *tar.Header) error { return a.head.write(a.w, hdr) }

func (a *archiver) entry(e *Entry) error {
	dir, leaf := e.Split()
	if strings.HasPrefix(leaf, whiteoutPrefix) {
		return fmt.Errorf("a layer cannot hold a file whose name starts with %q: rename it", whiteoutPrefix)
	}
	if e.IsWhiteout() {
		return a.header(removed(joinName(dir, whiteoutPrefix+leaf)))
	}
	hdr := &tar.Header{
		Name: e.Name, Mode: int64(e.Mode & modeBits), Uid: int(e.UID), Gid: int(e.GID), ModTime: time.Unix(e.ModTime, 0),
	}
	if e.HardLink != "" {
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, e.HardLink
		return a.header(hdr)
	}
	hides, err := archiveXattrs(hdr, e)
	if err != nil {
		return err
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return a.directory(hdr, hides)
	case unix.S_IFLNK:
		// The mode of a link means nothing; its attributes no tree can hold.
		hdr.Typeflag, hdr.Linkname, hdr.Mode, hdr.PAXRecords = tar.TypeSymlink, e.Target, permBits, nil
	case unix.S_IFIFO:
		hdr.Typeflag, hdr.PAXRecords = tar.TypeFifo, nil
	case unix.S_IFCHR:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case unix.S_IFBLK:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	default:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
	}
	if err := a.header(hdr); err != nil || e.Size == 0 || hdr.Typeflag != tar.TypeReg {
		return err
	}
	return a.content(e)
}

// content writes the content of a regular file and fills the last block.
func (a *archiver) content(e *Entry) error {
	a.body = bounded{w: a.w, left: e.Size}
	_, err := io.Copy(&a.body, e.Content)
	if err == nil && a.body.left != 0 {
		err = io.ErrUnexpectedEOF
	}
	if fill := -e.Size & (blockSize - 1); err == nil && fill > 0 {
		_, err = a.w.Write(a.padding[:fill])
	}
	return err
}

// bounded passes on what an entry may have.
type bounded struct {
	w    io.Writer
	left int64
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, tar.ErrWriteTooLong
	}
	n, err := b.w.Write(p)
	b.left -= int64(n)
	return n, err
}

func (a *archiver) directory(hdr *tar.Header, hides bool) error {
	hdr.Typeflag, hdr.Name = tar.TypeDir, hdr.Name+"/"
	if err := a.header(hdr); err != nil || !hides {
		return err
	}
	return a.header(removed(strings.TrimPrefix(hdr.Name, "./") + opaqueMarker))
}

// archiveXattrs sets the attributes that a layer keeps and tells whether e is an
// opaque directory.
func archiveXattrs(hdr *tar.Header, e *Entry) (hides bool, err error) {
	for _, x := range e.Xattrs {
		switch x.Name {
		case xattrOpaque, xattrTrustedOpaque:
			hides = hides || x.Value == "y"
			continue
		case overlayPrefix + "redirect", overlayPrefix + "metacopy", trustedPrefix + "redirect", trustedPrefix + "metacopy":
			return false, errors.New("the layer was written by an overlay with redirect_dir or metacopy, which no other reader would understand")
		}
		name, ok := archiveXattr(x.Name)
		if !ok {
			continue
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxXattr+name] = x.Value
	}
	return hides, nil
}
