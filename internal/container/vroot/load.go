// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"encoding/binary"
	"os"
	"syscall"
)

// The kernel has run a loader as if it were the program. What it does besides for a program
// that asks for a loader is done here, before the loader's first instruction: the program is
// mapped, and the loader told where (the auxiliary vector, getauxval(3)). So nothing differs
// for the loader and the program. The process itself makes the system calls: code for them
// is written over the loader's first instructions, and taken away again.

// Keys of the auxiliary vector.
const (
	auxEnd      = 0
	auxHeader   = 3
	auxCount    = 5
	auxBase     = 7
	auxEntry    = 9
	auxExecName = 31
)

const (
	mapPrivate   = 0x02
	mapFixed     = 0x10
	mapAnonymous = 0x20
	mapNoReplace = 0x100000

	prSetName = 15
)

// loading is a process that is given its program.
type loading struct {
	e    *engine
	pid  int
	mem  *os.File // its memory
	regs registers
	plan *plan
	bias uint64 // of the program's addresses
}

// systemCall is one for the process to make.
type systemCall struct {
	number int
	args   []uint64
}

// load gives a process what the plan says. It is stopped at the end of its execveat(2).
func (e *engine) load(pid int, c *change) bool {
	regs, errno := getRegisters(pid)
	if errno != 0 {
		return false
	}
	mem, err := os.OpenFile("/proc/"+itoa(uint64(pid))+"/mem", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer mem.Close()
	l := &loading{e: e, pid: pid, mem: mem, regs: regs, plan: c.plan}
	if c.plan.image.loader == "" {
		_, _ = l.run(nil, c.plan.name) // of little importance
	} else {
		if !l.reserve() {
			return false
		}
		if _, ok := l.run(l.mapping(c.at-1), c.plan.name); !ok || !l.clearEnds() {
			return false
		}
	}
	return l.rebuildStack() && l.regs.set(pid) == 0
}

// run has the process make calls, and take a name. It gives the result of the last call.
func (l *loading) run(calls []systemCall, name string) (uint64, bool) {
	const longest = 15 // of names
	entry := l.regs.entry()
	var code []byte
	if name != "" {
		name = name[:min(len(name), longest)]
		code = append([]byte(name), make([]byte, longest+1-len(name))...)
	}
	begin := len(code)
	for _, c := range calls {
		code = assemble(code, c.number, c.args...)
	}
	if name != "" {
		code = assemble(code, syscall.SYS_PRCTL, prSetName, entry)
	}
	code = append(code, trapCode()...)
	was := make([]byte, len(code))
	if n, _ := l.mem.ReadAt(was, int64(entry)); n < len(was) {
		return 0, false
	}
	n, err := l.mem.WriteAt(code, int64(entry))
	var value uint64
	ok := err == nil
	if ok {
		value, ok = l.execute(entry+uint64(begin), len(code)-begin)
	}
	_, err = l.mem.WriteAt(was[:n], int64(entry))
	return value, ok && err == nil
}

// execute runs code in the process up to its trap.
func (l *loading) execute(at uint64, size int) (uint64, bool) {
	regs := l.regs
	regs.jump(at)
	if regs.set(l.pid) != 0 {
		return 0, false
	}
	if !l.e.advance(l.pid, ptraceCont) {
		return 0, false
	}
	end, errno := getRegisters(l.pid)
	return end.result(), errno == 0 && end.behindTrap(at, size)
}

// reserve finds the place of the program.
func (l *loading) reserve() bool {
	low, high, align := l.plan.image.span()
	page := uint64(syscall.Getpagesize())
	size, flags, at := high-low, uint64(mapPrivate|mapAnonymous), uint64(0)
	if l.plan.image.fixed {
		at, flags = low, flags|mapNoReplace
	} else {
		size += align - page
	}
	at, ok := l.run([]systemCall{{syscall.SYS_MMAP, []uint64{at, size, 0, flags, ^uint64(0), 0}}}, "")
	if !ok || l.plan.image.fixed {
		return ok && at == low
	}
	l.bias = (at+align-1)&^(align-1) - low
	return true
}

// mapping gives the calls that map the program, which the process has open as fd.
func (l *loading) mapping(fd int) []systemCall {
	page := uint64(syscall.Getpagesize())
	var out []systemCall
	for _, s := range l.plan.image.loads {
		skew := s.addr % page
		start := l.bias + s.addr - skew
		fileEnd := (skew + s.fileSize + page - 1) &^ (page - 1)
		end := (skew + s.size + page - 1) &^ (page - 1)
		if s.fileSize > 0 {
			out = append(out, systemCall{syscall.SYS_MMAP, []uint64{start, fileEnd, s.prot, mapPrivate | mapFixed, uint64(fd), s.offset - skew}})
		} else {
			fileEnd = 0
		}
		if end > fileEnd {
			out = append(out, systemCall{syscall.SYS_MMAP, []uint64{start + fileEnd, end - fileEnd, s.prot, mapPrivate | mapFixed | mapAnonymous, ^uint64(0), 0}})
		}
	}
	return append(out, systemCall{syscall.SYS_CLOSE, []uint64{uint64(fd)}})
}

// clearEnds clears what lies behind the file's part of segments that are longer.
func (l *loading) clearEnds() bool {
	const writable = 2
	page := uint64(syscall.Getpagesize())
	for _, s := range l.plan.image.loads {
		end := l.bias + s.addr + s.fileSize
		if n := (page - end%page) % page; s.size > s.fileSize && s.fileSize > 0 && s.prot&writable != 0 && n > 0 {
			if _, err := l.mem.WriteAt(make([]byte, n), int64(end)); err != nil {
				return false
			}
		}
	}
	return true
}

// maxVector bounds the pointers to arguments and variables.
const maxVector = 8 << 20

// readVector reads what is on a new stack: the count of arguments, pointers to them and to
// the variables, and the auxiliary vector, each with its end.
func (l *loading) readVector() ([]uint64, int) {
	var v []uint64
	zeros, aux := 0, 0
	for b := make([]byte, 4096); len(v) < maxVector; {
		n, _ := l.mem.ReadAt(b, int64(l.regs.stack())+8*int64(len(v)))
		if n < 8 {
			return nil, 0
		}
		for i := 0; i+8 <= n; i += 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			v = append(v, w)
			switch {
			case zeros < 2:
				if w == 0 && len(v) > 1 {
					zeros++
					aux = len(v)
				}
			case (len(v)-aux)%2 == 0 && v[len(v)-2] == auxEnd:
				return v, aux
			}
		}
	}
	return nil, 0
}

// rebuildStack corrects what the new program is told: arguments, and the auxiliary vector.
func (l *loading) rebuildStack() bool {
	v, aux := l.readVector()
	if v == nil {
		return false
	}
	sp := l.regs.stack()
	var text []byte
	// Strings go below the old stack, in their order, ended by a multiple of 16.
	size := len(l.plan.path) + 1
	for _, w := range l.plan.words {
		size += len(w) + 1
	}
	base := (sp - uint64(size)) &^ 15
	add := func(s string) uint64 {
		at := base + uint64(len(text))
		text = append(append(text, s...), 0)
		return at
	}
	path := add(l.plan.path)
	var words []uint64
	for _, w := range l.plan.words {
		words = append(words, add(w))
	}
	out := []uint64{v[0]}
	rest := v[1:aux]
	if len(words) > 0 {
		out[0] = v[0] - min(v[0], 1) + uint64(len(words))
		out = append(out, words...)
		if v[0] > 0 {
			rest = rest[1:]
		}
	}
	out = append(out, rest...)
	out = append(out, l.auxiliary(v[aux:], path)...)
	at := (base - 8*uint64(len(out))) &^ 15
	b := make([]byte, 0, 8*len(out))
	for _, w := range out {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	if _, err := l.mem.WriteAt(text, int64(base)); err != nil {
		return false
	}
	if _, err := l.mem.WriteAt(b, int64(at)); err != nil {
		return false
	}
	l.regs.setStack(at)
	return true
}

// auxiliary corrects the auxiliary vector: path is where that of the program is.
func (l *loading) auxiliary(aux []uint64, path uint64) []uint64 {
	im := &l.plan.image
	for i := 0; i+1 < len(aux); i += 2 {
		value := &aux[i+1]
		if aux[i] == auxExecName {
			*value = path
		}
		if im.loader == "" {
			continue
		}
		switch aux[i] {
		case auxHeader:
			*value = l.bias + im.header
		case auxCount:
			*value = im.count
		case auxBase:
			*value = l.regs.entry() - l.plan.loader.entry
		case auxEntry:
			*value = l.bias + im.entry
		}
	}
	return aux
}
