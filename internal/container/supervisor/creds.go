// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"slices"
	"syscall"
	"unsafe"
)

// Real, effective, saved and file system id (credentials(7)).
const (
	real = iota
	effective
	saved
	fileSystem
)

type ids [4]uint32

// creds are the ids of a process.
type creds struct {
	uid, gid ids
	groups   []uint32
	caps     capSets
	place    Place
}

func newCreds(i IDs) creds {
	c := creds{
		uid:    ids{i.UID, i.UID, i.UID, i.UID},
		gid:    ids{i.GID, i.GID, i.GID, i.GID},
		groups: slices.Sorted(slices.Values(i.Groups)),
	}
	if i.UID == 0 {
		c.caps.permitted, c.caps.effective = i.Caps, i.Caps
	}
	return c
}

func (c *creds) equal(o *creds) bool {
	return c.uid == o.uid && c.gid == o.gid && c.caps == o.caps && c.place == o.place && slices.Equal(c.groups, o.groups)
}

// inGroup tells whether gid is one of the process's groups.
func (c *creds) inGroup(gid uint32) bool {
	return c.gid[fileSystem] == gid || slices.Contains(c.groups, gid)
}

// Bounds of the table: a step that wants more of them gets EAGAIN, which setuid(2)
// knows.
const (
	maxCreds  = 4096
	maxGroups = 1 << 20 // of all together
	perCreds  = 1 << 16 // NGROUPS_MAX
)

// rlimit is struct rlimit64.
type rlimit struct{ cur, max uint64 }

const (
	rlimitLocks = 10
	// firstNumber is the limit that stands for the first entry of the table. Real
	// limits are smaller, or infinite.
	firstNumber = 1 << 40
)

// markSelf gives this process, and with it the command, the first entry.
func (s *supervisor) markSelf() error {
	if e := s.prlimit(0, nil, &s.limit); e != 0 {
		return errors.New("read limit of locks: " + e.Error())
	}
	if s.limit.max < firstNumber+maxCreds {
		return errors.New("the hard limit of file locks (ulimit -Hx) must be unlimited where only one user id is available")
	}
	if e := s.setNumber(0, 0); e != 0 {
		return errors.New("set limit of locks: " + e.Error())
	}
	return nil
}

func (s *supervisor) prlimit(pid uint32, value, old *rlimit) syscall.Errno {
	_, _, e := syscall.RawSyscall6(sysPrlimit, uintptr(pid), rlimitLocks, uintptr(unsafe.Pointer(value)), uintptr(unsafe.Pointer(old)), 0, 0)
	return e
}

func (s *supervisor) setNumber(pid uint32, n int) syscall.Errno {
	l := rlimit{firstNumber + uint64(n), s.limit.max}
	return s.prlimit(pid, &l, nil)
}

// creds are those of the process that called. One that has changed its number to
// something else is like the first one.
func (s *supervisor) creds() *creds { return s.credsOf(s.call.pid) }

func (s *supervisor) credsOf(pid uint32) *creds {
	n := uint64(0)
	if s.prlimit(pid, nil, &s.limit) == 0 && s.limit.cur >= firstNumber {
		n = s.limit.cur - firstNumber
	}
	if n >= uint64(len(s.table)) {
		n = 0
	}
	return &s.table[n]
}

// become gives the process that called other ids. s.creds was called before.
func (s *supervisor) become(c creds) syscall.Errno {
	n := s.intern(c)
	if n < 0 {
		return syscall.EAGAIN
	}
	if !s.valid() {
		return syscall.ESRCH
	}
	return s.setNumber(s.call.pid, n)
}

// limitCall answers calls for the limit that the number is kept in: it looks
// unlimited, as it is elsewhere, and cannot be changed. pam_limits sets all limits for
// every session.
func (s *supervisor) limitCall(old uint64) answer {
	unlimited := rlimit{^uint64(0), ^uint64(0)}
	if old == 0 {
		return done(0)
	}
	return result(s.write(old, unsafe.Pointer(&unlimited), int(unsafe.Sizeof(unlimited))))
}

// maxID is the largest id that a step can have: as where there are subordinate ids.
const maxID = 1<<16 - 1

func exists(id uint32) bool { return id <= maxID || id == keep }

// intern gives the number of an entry of the table, made if need be; -1: the table
// is full.
func (s *supervisor) intern(c creds) int {
	n := slices.IndexFunc(s.table, func(o creds) bool { return c.equal(&o) })
	if n >= 0 {
		return n
	}
	if len(s.table) >= maxCreds || s.groups+len(c.groups) > maxGroups {
		return -1
	}
	s.groups += len(c.groups)
	s.table = append(s.table, c)
	return len(s.table) - 1
}

const keep = 1<<32 - 1 // the id that means "as it is"

// change applies one of the set*id calls to the ids of a process. privileged says
// that any id may be had.
type change func(old ids, privileged bool, a [3]uint32) (ids, syscall.Errno)

func setOne(old ids, privileged bool, a [3]uint32) (ids, syscall.Errno) {
	id := a[0]
	switch {
	case id > maxID:
		return old, syscall.EINVAL
	case privileged:
		return ids{id, id, id, id}, 0
	case id == old[real] || id == old[saved]:
		old[effective], old[fileSystem] = id, id
		return old, 0
	}
	return old, syscall.EPERM
}

func setTwo(old ids, privileged bool, a [3]uint32) (ids, syscall.Errno) {
	r, e := a[0], a[1]
	if !exists(r) || !exists(e) {
		return old, syscall.EINVAL
	}
	if !privileged && (r != keep && r != old[real] && r != old[effective] ||
		e != keep && e != old[real] && e != old[effective] && e != old[saved]) {
		return old, syscall.EPERM
	}
	out := old
	if r != keep {
		out[real] = r
	}
	if e != keep {
		out[effective] = e
	}
	if r != keep || e != keep && e != old[real] {
		out[saved] = out[effective]
	}
	out[fileSystem] = out[effective]
	return out, 0
}

func setThree(old ids, privileged bool, a [3]uint32) (ids, syscall.Errno) {
	out := old
	for i, id := range a {
		if !exists(id) {
			return old, syscall.EINVAL
		}
		if id == keep {
			continue
		}
		if !privileged && id != old[real] && id != old[effective] && id != old[saved] {
			return old, syscall.EPERM
		}
		out[i] = id
	}
	out[fileSystem] = out[effective]
	return out, 0
}

func setFileSystem(old ids, privileged bool, a [3]uint32) (ids, syscall.Errno) {
	if a[0] <= maxID && (privileged || slices.Contains(old[:], a[0])) {
		old[fileSystem] = a[0]
	}
	return old, 0
}

// setUID does a call that changes user ids.
func (s *supervisor) setUID(f change) answer {
	c := *s.creds()
	out, e := f(c.uid, c.has(capSetUID), s.three())
	if e != 0 || out == c.uid {
		return fails(e)
	}
	c.caps.follow(c.uid, out)
	c.uid = out
	return result(s.become(c))
}

// setGID does a call that changes group ids.
func (s *supervisor) setGID(f change) answer {
	c := *s.creds()
	out, e := f(c.gid, c.has(capSetGID), s.three())
	if e != 0 || out == c.gid {
		return fails(e)
	}
	c.gid = out
	return result(s.become(c))
}

// setFSID is setfsuid(2) or setfsgid(2): they report no errors, but what was.
func (s *supervisor) setFSID(group bool) answer {
	c := *s.creds()
	old := c.uid[fileSystem]
	if group {
		old = c.gid[fileSystem]
		c.gid, _ = setFileSystem(c.gid, c.has(capSetGID), s.three())
	} else {
		c.uid, _ = setFileSystem(c.uid, c.has(capSetUID), s.three())
		c.caps.followFileSystem(old, c.uid[fileSystem])
	}
	_ = s.become(c) // it then reads what it had
	return done(int64(old))
}

func (s *supervisor) three() [3]uint32 {
	return [3]uint32{uint32(s.call.args[0]), uint32(s.call.args[1]), uint32(s.call.args[2])}
}

// getThree is getresuid(2) or getresgid(2).
func (s *supervisor) getThree(i ids) answer {
	for n := range 3 {
		if e := s.write(s.call.args[n], unsafe.Pointer(&i[n]), 4); e != 0 {
			return fails(e)
		}
	}
	return done(0)
}

func (s *supervisor) getGroups() answer {
	g := s.creds().groups
	size := arg32(s.call.args[0])
	if size < 0 || size != 0 && int(size) < len(g) {
		return fails(syscall.EINVAL)
	}
	if size != 0 && len(g) > 0 {
		if e := s.write(s.call.args[1], unsafe.Pointer(&g[0]), 4*len(g)); e != 0 {
			return fails(e)
		}
	}
	return done(int64(len(g)))
}

func (s *supervisor) setGroups() answer {
	c := *s.creds()
	n := s.call.args[0]
	switch {
	case !c.has(capSetGID):
		return fails(syscall.EPERM)
	case n > perCreds:
		return fails(syscall.EINVAL)
	}
	c.groups = make([]uint32, n)
	if n > 0 {
		if e := s.read(s.call.args[1], unsafe.Pointer(&c.groups[0]), 4*int(n)); e != 0 {
			return fails(e)
		}
	}
	slices.Sort(c.groups)
	if n > 0 && c.groups[n-1] > maxID {
		return fails(syscall.EINVAL)
	}
	return result(s.become(c))
}

// chroot lets who may change the root directory of a process: from then on paths of
// some processes begin elsewhere.
func (s *supervisor) chroot() answer {
	if !s.creds().has(capChroot) {
		return fails(syscall.EPERM)
	}
	s.chroots = true
	return passed()
}
