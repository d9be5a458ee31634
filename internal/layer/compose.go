// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Compose writes entries as a layer archive to w, as ToArchive does, while it is
// hashed beside that: a layer is packed that was never a tree. w may be nil.
func Compose(ctx context.Context, w io.Writer, entries iter.Seq2[*Entry, error]) (DiffResult, error) {
	out := newSink(w)
	res := DiffResult{Empty: true}
	err := ToArchive(ctx, failing{out}, func(yield func(*Entry, error) bool) {
		for e, err := range entries {
			if res.Empty = false; err == nil {
				res.Entries++
			}
			if !yield(e, err) {
				return
			}
		}
	})
	var writeErr error
	res.DiffID, res.Size, writeErr = out.finish()
	switch {
	case writeErr != nil:
		return DiffResult{}, fmt.Errorf("write layer: %w", writeErr)
	case err != nil:
		return DiffResult{}, fmt.Errorf("make layer: %w", err)
	}
	return res, nil
}

// failing is a sink that tells its writer when the output has failed: Compose says
// why.
type failing struct{ *sink }

// Write implements io.Writer.
func (f failing) Write(p []byte) (int, error) {
	if f.failed.Load() {
		return 0, io.ErrClosedPipe
	}
	return f.sink.Write(p)
}

// Clamp is the time that a modification time becomes in an archive, in seconds
// since 1970: see DiffOptions.
func (o DiffOptions) Clamp(mtime unix.Timespec) int64 {
	d := differ{opt: o}
	return d.clamp(mtime).Unix()
}

// Attributes is what a directory or file of a tree says of itself: with what is
// noted where it cannot be set, and the extended attributes that an archive has.
type Attributes struct {
	Mode     uint32 // permissions, set-id and sticky bits
	UID, GID uint32
	ModTime  unix.Timespec
	Xattrs   []Xattr // under the names that trees have them by, sorted
}

// AttributesOf reads the attributes of an open directory or regular file, whose
// state is st.
func AttributesOf(fd int, st *unix.Stat_t) (Attributes, error) {
	hdr, _, err := new(differ).describe(fd, st)
	if err != nil {
		return Attributes{}, err
	}
	a := Attributes{Mode: uint32(hdr.Mode), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid), ModTime: st.Mtim}
	for key, value := range hdr.PAXRecords {
		if name, ok := diskXattr(strings.TrimPrefix(key, paxXattr)); ok {
			a.Xattrs = append(a.Xattrs, Xattr{name, value})
		}
	}
	sort.Slice(a.Xattrs, func(i, j int) bool { return a.Xattrs[i].Name < a.Xattrs[j].Name })
	return a, nil
}

// Directory gives the attributes of a directory that Lookup found.
func (s *Stack) Directory(f Found) (Attributes, error) {
	d, err := s.Root(f.Layer).OpenDir(f.Path)
	if err != nil {
		return Attributes{}, err
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil {
		return Attributes{}, err
	}
	return AttributesOf(d.Fd(), &st)
}

// Opaque is the attribute by which an Entry says that its directory hides what is
// below.
func Opaque() Xattr { return Xattr{xattrOpaque, "y"} }
