// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// registers is struct user_regs_struct.
type registers struct {
	r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, origRax, rip, cs, flags, rsp, ss, fsBase, gsBase, ds, es, fs, gs uint64
}

func getRegisters(pid int) (r registers, errno syscall.Errno) {
	errno = getSet(pid, prStatus, unsafe.Pointer(&r), unsafe.Sizeof(r))
	return r, errno
}

func (r *registers) set(pid int) syscall.Errno {
	return setSet(pid, prStatus, unsafe.Pointer(r), unsafe.Sizeof(*r))
}

func (r *registers) args() [6]*uint64 {
	return [...]*uint64{&r.rdi, &r.rsi, &r.rdx, &r.r10, &r.r8, &r.r9}
}

func (r *registers) number() int        { return int(r.origRax) }
func (r *registers) arg(n int) uint64   { return *r.args()[n] }
func (r *registers) result() uint64     { return r.rax }
func (r *registers) entry() uint64      { return r.rip }
func (r *registers) stack() uint64      { return r.rsp }
func (r *registers) setStack(sp uint64) { r.rsp = sp }

func (r *registers) setArgs(values ...uint64) {
	for i, v := range values {
		*r.args()[i] = v
	}
}

// setCall makes the call that is about to begin another one.
func (r *registers) setCall(pid int, number int) syscall.Errno {
	r.origRax = uint64(number)
	return r.set(pid)
}

// fail has the call that is about to begin fail.
func (r *registers) fail(pid int, e syscall.Errno) {
	r.origRax, r.rax = ^uint64(0), -uint64(e)
	_ = r.set(pid)
}

// setResult makes r what a process has after a call with that result.
func (r *registers) setResult(value uint64, after *registers) {
	rip, flags, rcx, r11 := after.rip, after.flags, after.rcx, after.r11
	r.rax, r.origRax, r.rip, r.flags, r.rcx, r.r11 = value, ^uint64(0), rip, flags, rcx, r11
}

// restart makes r what a process has after a call that the kernel is to begin anew.
func (r *registers) restart(after *registers) {
	number := r.origRax
	r.setResult(^uint64(restartNoIntr-1), after)
	r.origRax = number
}

// again makes a process that returns from a call make another one at the same place.
func (r *registers) again(number int, args ...uint64) {
	const size = 2 // of the instruction syscall
	r.rip -= size
	r.rax, r.origRax = uint64(number), ^uint64(0)
	r.setArgs(args...)
}

// assemble adds the code for a system call that traps on an error.
func assemble(code []byte, number int, args ...uint64) []byte {
	put := func(op [2]byte, v uint64) { code = binary.LittleEndian.AppendUint64(append(code, op[0], op[1]), v) }
	put([2]byte{0x48, 0xb8}, uint64(number)) // rax
	for i, op := range [][2]byte{{0x48, 0xbf}, {0x48, 0xbe}, {0x48, 0xba}, {0x49, 0xba}, {0x49, 0xb8}, {0x49, 0xb9}}[:len(args)] {
		put(op, args[i])
	}
	// syscall; cmp rax, -4095; jb +1; int3
	return append(code, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x72, 0x01, 0xcc)
}

// trapCode stops a program, at the address behind it.
func trapCode() []byte { return []byte{0xcc} }

func (r *registers) behindTrap(code uint64, size int) bool { return r.rip == code+uint64(size) }

// jump has a process go on at an address.
func (r *registers) jump(to uint64) { r.rip, r.origRax = to, ^uint64(0) }
