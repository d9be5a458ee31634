// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// registers is struct user_pt_regs, with the number of the call.
type registers struct {
	x              [31]uint64
	sp, pc, pstate uint64
	nr             int32
}

const (
	basicSize     = 34 * 8
	systemCallSet = 0x404 // NT_ARM_SYSTEM_CALL
)

func getRegisters(pid int) (r registers, errno syscall.Errno) {
	if errno = getSet(pid, prStatus, unsafe.Pointer(&r), basicSize); errno == 0 {
		errno = getSet(pid, systemCallSet, unsafe.Pointer(&r.nr), 4)
	}
	return r, errno
}

func (r *registers) set(pid int) syscall.Errno {
	return setSet(pid, prStatus, unsafe.Pointer(r), basicSize)
}

func (r *registers) number() int        { return int(r.nr) }
func (r *registers) arg(n int) uint64   { return r.x[n] }
func (r *registers) result() uint64     { return r.x[0] }
func (r *registers) entry() uint64      { return r.pc }
func (r *registers) stack() uint64      { return r.sp }
func (r *registers) setStack(sp uint64) { r.sp = sp }

func (r *registers) setArgs(values ...uint64) { copy(r.x[:], values) }

// setCall makes the call that is about to begin another one.
func (r *registers) setCall(pid int, number int) syscall.Errno {
	nr := int32(number)
	if errno := setSet(pid, systemCallSet, unsafe.Pointer(&nr), 4); errno != 0 {
		return errno
	}
	return r.set(pid)
}

// fail has the call that is about to begin fail.
func (r *registers) fail(pid int, e syscall.Errno) {
	r.x[0] = -uint64(e)
	_ = r.setCall(pid, -1)
}

// setResult makes r what a process has after a call with that result.
func (r *registers) setResult(value uint64, after *registers) {
	r.x[0], r.pc, r.pstate = value, after.pc, after.pstate
}

// restart makes r what a process has after a call that the kernel is to begin anew: it
// remembers the first argument itself.
func (r *registers) restart(after *registers) {
	r.setResult(^uint64(restartNoIntr-1), after)
}

// again makes a process that returns from a call make another one at the same place.
func (r *registers) again(number int, args ...uint64) {
	const size = 4 // of the instruction svc
	r.pc -= size
	r.x[8] = uint64(number)
	r.setArgs(args...)
}

// assemble adds the code for a system call that traps on an error.
func assemble(code []byte, number int, args ...uint64) []byte {
	op := func(v uint32) { code = binary.LittleEndian.AppendUint32(code, v) }
	put := func(register uint32, v uint64) {
		op(0xd2800000 | uint32(v&0xffff)<<5 | register) // movz
		for i := uint32(1); i < 4; i++ {
			op(0xf2800000 | i<<21 | uint32(v>>(16*i)&0xffff)<<5 | register) // movk
		}
	}
	put(8, uint64(number))
	for i, a := range args {
		put(uint32(i), a)
	}
	op(0xd4000001) // svc #0
	op(0xb13ffc1f) // cmn x0, #4095
	op(0x54000043) // b.cc over the next
	op(0xd4200000) // brk #0
	return code
}

// trapCode stops a program, at its own address.
func trapCode() []byte { return binary.LittleEndian.AppendUint32(nil, 0xd4200000) }

func (r *registers) behindTrap(code uint64, size int) bool {
	return r.pc == code+uint64(size)-4
}

// jump has a process go on at an address.
func (r *registers) jump(to uint64) { r.pc = to }
