// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"time"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// basics gives the header of a file without name and type.
func (d *differ) basics(st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Mode:    int64(st.Mode & modeBits),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: d.clamp(st.Mtim),
	}
}

// clamp is the time that a modification time becomes in the archive.
func (d *differ) clamp(mtime unix.Timespec) time.Time {
	epoch := d.opt.SourceDateEpoch
	if epoch == nil {
		return time.Unix(mtime.Sec, 0)
	}
	t := time.Unix(mtime.Sec, mtime.Nsec)
	from := d.opt.ClampFrom
	if t.After(*epoch) || (from != nil && !t.Before(from.Add(-clockGrain))) {
		return time.Unix(epoch.Unix(), 0)
	}
	return time.Unix(mtime.Sec, 0)
}

// describe is basics with what the attributes of the open file or directory say.
// For a file that stands for a device it sets the type too.
func (d *differ) describe(fd int, st *unix.Stat_t) (hdr *tar.Header, isOpaque bool, err error) {
	hdr = d.basics(st)
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return nil, false, fmt.Errorf("list attributes: %w", err)
	}
	for _, disk := range names {
		name, kept := archiveXattr(disk)
		if !kept && !ownXattr(disk) {
			continue
		}
		value, err := rootfs.Fgetxattr(fd, disk)
		if err != nil {
			return nil, false, fmt.Errorf("read attribute %s: %w", disk, err)
		}
		switch {
		case kept:
			if hdr.PAXRecords == nil {
				hdr.PAXRecords = map[string]string{}
			}
			hdr.PAXRecords[paxXattr+name] = string(value)
		case disk == xattrOpaque:
			isOpaque = string(value) == "y"
		default:
			if err := ownMeaning(hdr, st, disk, value); err != nil {
				return nil, false, err
			}
		}
	}
	return hdr, isOpaque, nil
}

// ownXattr tells whether an attribute changes what is written.
func ownXattr(disk string) bool {
	switch disk {
	case xattrOpaque, record.Owner, xattrNode, overlayPrefix + "redirect", overlayPrefix + "metacopy":
		return true
	}
	_, noted := record.Noted(disk)
	return noted
}

// ownMeaning applies an attribute that only trees have.
func ownMeaning(hdr *tar.Header, st *unix.Stat_t, disk string, value []byte) error {
	if name, ok := record.Noted(disk); ok {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxXattr+name] = string(value)
		return nil
	}
	switch disk {
	case record.Owner:
		uid, gid, err := record.DecodeOwner(value, st.Uid, st.Gid)
		if err != nil {
			return err
		}
		hdr.Uid, hdr.Gid = int(uid), int(gid)
	case xattrNode:
		n, ok := decodeNode(value)
		// A step that wrote to the file, or replaced it, made it a file.
		if !ok || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
			return nil
		}
		hdr.Typeflag = tar.TypeChar
		if n.kind == 'b' {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(n.major), int64(n.minor)
		if st.Mode&modeBits == 0 { // else a step has set it since
			hdr.Mode = int64(n.mode)
		}
	default:
		return errors.New("the tree was written by an overlay with redirect_dir or metacopy: mount it with neither")
	}
	return nil
}

// removed gives the header of a mark of removal.
func removed(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)}
}
