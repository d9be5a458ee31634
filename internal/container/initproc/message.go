// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"errors"
	"unsafe"
)

// Step is what the init of a container is told. It travels over the control
// socket as a flat message: numbers as unsigned varints, strings and lists with
// their length in front, in the order of the fields. Both ends are the same
// binary, so the message has no version.
type Step struct {
	Args, Env []string
	Dir       string
	Hostname  string

	UID, GID uint32
	Groups   []uint32

	SingleID   bool // only id 0 is mapped
	Privileged bool // no masks, no dropped capabilities, no scope
	OwnNetwork bool
	Scoped     bool // keep from the abstract sockets and processes outside
	NoNewPrivs bool
	Terminal   bool
	Virtual    bool // no container: every call for a file is answered (package vroot)
	Supervised bool // Seccomp hands calls over; the ids are virtual
	Bare       bool // there are no namespaces: see bare.go

	Caps    uint64 // the capabilities to keep, as a bit set
	Seccomp []byte // array of struct sock_filter; empty: none
	ShmSize uint64
	Mounts  []Mount
	Limits  []Limit
}

// DefaultShm is the size of an ordinary step's /dev/shm, in bytes.
const DefaultShm = 64 << 20

// Ordinary tells whether a process that was started with ArgAhead can be for the step.
func (s *Step) Ordinary() bool {
	return !s.Privileged && !s.OwnNetwork && !s.Terminal && s.ShmSize == DefaultShm
}

// Mount is a detached mount to attach. Its descriptors follow the one of the
// root, in the order of Step.Mounts.
type Mount struct {
	Target string // clean, relative to the root, without links
	Make   bool   // lies inside another mount, so that Target may be missing
	File   bool   // what to make

	ReadOnly bool // of a Virtual step; else the mount knows
}

// Limit is a resource limit.
type Limit struct{ Resource, Cur, Max uint64 }

var errMessage = errors.New("message is damaged")

// Encode gives the message.
func (s *Step) Encode() []byte {
	e := encoder{b: make([]byte, 0, 4096+len(s.Seccomp))}
	e.strings(s.Args)
	e.strings(s.Env)
	e.string(s.Dir)
	e.string(s.Hostname)
	e.number(uint64(s.UID))
	e.number(uint64(s.GID))
	e.number(uint64(len(s.Groups)))
	for _, g := range s.Groups {
		e.number(uint64(g))
	}
	for _, f := range s.flags() {
		e.bool(*f)
	}
	e.number(s.Caps)
	e.string(string(s.Seccomp))
	e.number(s.ShmSize)
	e.number(uint64(len(s.Mounts)))
	for _, m := range s.Mounts {
		e.string(m.Target)
		e.bool(m.Make)
		e.bool(m.File)
		e.bool(m.ReadOnly)
	}
	e.number(uint64(len(s.Limits)))
	for _, l := range s.Limits {
		e.number(l.Resource)
		e.number(l.Cur)
		e.number(l.Max)
	}
	return e.b
}

// Decode reads the message. The strings are where they are in b, which must not change while
// they are in use.
func Decode(b []byte) (*Step, error) {
	d := decoder{b: b}
	s := &Step{Args: d.strings(), Env: d.strings(), Dir: d.string(), Hostname: d.string()}
	s.UID, s.GID = d.id(), d.id()
	for range d.length() {
		s.Groups = append(s.Groups, d.id())
	}
	for _, f := range s.flags() {
		*f = d.bool()
	}
	s.Caps = d.number()
	s.Seccomp = []byte(d.string())
	s.ShmSize = d.number()
	for range d.length() {
		s.Mounts = append(s.Mounts, Mount{Target: d.string(), Make: d.bool(), File: d.bool(), ReadOnly: d.bool()})
	}
	for range d.length() {
		s.Limits = append(s.Limits, Limit{d.number(), d.number(), d.number()})
	}
	if d.bad || len(d.b) != 0 {
		return nil, errMessage
	}
	return s, nil
}

func (s *Step) flags() []*bool {
	return []*bool{
		&s.SingleID, &s.Privileged, &s.OwnNetwork, &s.Scoped, &s.NoNewPrivs, &s.Terminal, &s.Supervised, &s.Bare, &s.Virtual,
	}
}

type encoder struct{ b []byte }

func (e *encoder) number(v uint64) {
	for v >= 0x80 {
		e.b = append(e.b, byte(v)|0x80)
		v >>= 7
	}
	e.b = append(e.b, byte(v))
}

func (e *encoder) string(s string) {
	e.number(uint64(len(s)))
	e.b = append(e.b, s...)
}

func (e *encoder) strings(l []string) {
	e.number(uint64(len(l)))
	for _, s := range l {
		e.string(s)
	}
}

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// decoder takes a message apart; after damage it gives zero values.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() uint64 {
	var v uint64
	for i, c := range d.b {
		if i == 10 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.b = d.b[i+1:]
			return v
		}
	}
	d.b, d.bad = nil, true
	return 0
}

// length reads the length of a list: no more than there are bytes left.
func (d *decoder) length() uint64 {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return 0
	}
	return n
}

func (d *decoder) id() uint32 {
	n := d.number()
	if n > 1<<32-1 {
		d.bad = true
	}
	return uint32(n)
}

func (d *decoder) bool() bool { return d.number() != 0 }

func (d *decoder) string() string {
	n := d.length()
	s := unsafe.String(unsafe.SliceData(d.b), n)
	d.b = d.b[n:]
	return s
}

func (d *decoder) strings() []string {
	n := d.length()
	l := make([]string, 0, n)
	for range n {
		l = append(l, d.string())
	}
	return l
}
