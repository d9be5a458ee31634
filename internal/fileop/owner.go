// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
)

// ownerAttribute gives the attribute that records a file's owner where ids cannot be
// set, and its value.
func ownerAttribute(uid, gid uint32) (string, []byte) {
	return record.Owner, record.EncodeOwner(uid, gid)
}

// owner looks an action's owner up. A name that is not known means 0, as in
// BuildKit: images without /etc/passwd have a root all the same.
func (d *doer) owner(a *action.Owner) (*owner, error) {
	if a == nil {
		return nil, nil
	}
	var o owner
	if u := a.User; u != nil {
		o.uid, o.gid = u.Number, u.Number
		if u.Name != "" {
			found, err := d.account(passwdFile, u.Name)
			if err != nil {
				return nil, err
			}
			o.uid, o.gid = found.id, found.gid
		}
	}
	if g := a.Group; g != nil {
		o.gid = g.Number
		if g.Name != "" {
			found, err := d.account(groupFile, g.Name)
			if err != nil {
				return nil, err
			}
			o.gid = found.id
		}
	}
	return &o, nil
}

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	// maxUsers bounds what is read of either file, in bytes.
	maxUsers = 4 << 20
)

// account is a line of /etc/passwd or /etc/group.
type account struct {
	name    string
	id, gid uint32
	home    string
	members []string
}

// find looks a name up; a missing file has nobody.
func find(root *rootfs.Root, file, name string) (out account, ok bool, err error) {
	err = accounts(root, file, func(a account) {
		if !ok && a.name == name {
			out, ok = a, true
		}
	})
	return out, ok, err
}

// account is find in what is changed.
func (d *doer) account(file, name string) (out account, err error) {
	if d.Draft == nil {
		out, _, err = find(d.Root, file, name)
		return out, err
	}
	data, err := d.draftFile(file)
	if err != nil {
		return out, err
	}
	found := false
	err = lines(bytes.NewReader(data), file, func(a account) {
		if !found && a.name == name {
			out, found = a, true
		}
	})
	return out, err
}

// draftFile reads /etc/passwd or /etc/group of a draft; a missing file is empty.
func (d *doer) draftFile(file string) ([]byte, error) {
	p, err := d.dest.resolve(file, true)
	if err != nil {
		return nil, err
	}
	at, err := d.Draft.find(p)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, err
	case at.node != nil && at.node.mode&unix.S_IFMT == unix.S_IFREG && at.node.copied == nil:
		return at.node.data, nil
	case at.node != nil, at.mode()&unix.S_IFMT != unix.S_IFREG, !layer.WithContent(p):
		return nil, fmt.Errorf("%s: %w", file, ErrUndecided)
	}
	at.in.mu.Lock()
	defer at.in.mu.Unlock()
	f, err := at.in.base.Root(at.found.Layer).OpenFile(p, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxUsers))
}

// accounts reads the lines of a file that have an id; others are passed over.
func accounts(root *rootfs.Root, file string, f func(account)) error {
	r, err := root.OpenFile(file, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	return lines(io.LimitReader(r, maxUsers), file, f)
}

func lines(r io.Reader, file string, f func(account)) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		w := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(w) < 3 {
			continue
		}
		id, err := strconv.ParseUint(w[2], 10, 32)
		if err != nil {
			continue
		}
		a := account{name: w[0], id: uint32(id)}
		if file == passwdFile && len(w) >= 6 {
			gid, err := strconv.ParseUint(w[3], 10, 32)
			if err != nil {
				continue
			}
			a.gid, a.home = uint32(gid), w[5]
		}
		if file == groupFile && len(w) >= 4 {
			a.members = strings.Split(w[3], ",")
		}
		f(a)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

// User is who runs a step.
type User struct {
	UID, GID uint32
	Groups   []uint32 // others that the user is in, and GID
	Home     string   // empty: not known
}

// LookupUser reads what USER of a Dockerfile says: NAME|UID[:GROUP|GID]. A name
// that the root file system does not know is an error.
func LookupUser(root *rootfs.Root, spec string) (User, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	var u User
	uid, numeric := number(name)
	u.UID = uid
	found := false
	user := name
	err := accounts(root, passwdFile, func(a account) {
		if !found && (a.name == name || numeric && a.id == uid) {
			found, user = true, a.name
			u.UID, u.GID, u.Home = a.id, a.gid, a.home
		}
	})
	if err != nil {
		return u, err
	}
	if !found && !numeric {
		return u, fmt.Errorf("user %s is not in /etc/passwd of the image: add it there, or use a number", name)
	}
	if hasGroup && group != "" {
		gid, ok := number(group)
		a, known, err := find(root, groupFile, group)
		switch {
		case err != nil:
			return u, err
		case known:
			gid = a.id
		case !ok:
			return u, fmt.Errorf("group %s is not in /etc/group of the image: add it there, or use a number", group)
		}
		u.GID, u.Groups = gid, []uint32{gid}
		return u, nil // as with docker: no other groups
	}
	// With the primary group, so that leaving the others out of a check gives no rights.
	u.Groups = []uint32{u.GID}
	if found {
		err = accounts(root, groupFile, func(a account) {
			if slices.Contains(a.members, user) && !slices.Contains(u.Groups, a.id) {
				u.Groups = append(u.Groups, a.id)
			}
		})
	}
	return u, err
}

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= math.MaxInt32
}
