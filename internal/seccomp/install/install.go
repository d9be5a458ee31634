// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package install loads a seccomp filter into the current thread. It is apart from package
// seccomp because it runs in the init of a step, before the rest of the program has woken up:
// it imports nothing that needs initialising, and it neither allocates nor takes a lock.
package install

import (
	"syscall"
	"unsafe"
)

const (
	setModeFilter = 1      // SECCOMP_SET_MODE_FILTER
	specAllow     = 1 << 2 // SECCOMP_FILTER_FLAG_SPEC_ALLOW
	insnSize      = 8      // sizeof(struct sock_filter)

	newListener = 1 << 3 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	// waitKillable is SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: a call that was received
	// is not begun anew for every signal. Since Linux 5.19.
	waitKillable = 1 << 5
)

// fprog is struct sock_fprog.
type fprog struct {
	len    uint16
	filter *byte
}

// Install puts prog, an array of struct sock_filter as made by seccomp.Program, before every
// later system call of the current thread and of its children. The caller has locked the
// goroutine to its thread, and either holds CAP_SYS_ADMIN in its user namespace or has set
// no_new_privs; else the error is EACCES. A filter cannot be taken back.
func Install(prog []byte) error {
	// Kernels before 5.16 would turn on a costly Spectre mitigation for every filtered
	// process; those before 4.17 do not know the flag.
	_, err := load(prog, specAllow, 0)
	return err
}

// Arguments are those of the system call that Install makes.
type Arguments struct {
	Operation, Flags uintptr
	Program          *byte // struct sock_fprog
}

// Call gives the number and the arguments of the system call that Install makes, for a process
// that can make nothing but system calls. They hold prog.
func Call(prog []byte) (nr uintptr, a Arguments, err error) {
	if !valid(prog) {
		return 0, Arguments{}, syscall.EINVAL
	}
	p := &fprog{len: uint16(len(prog) / insnSize), filter: unsafe.SliceData(prog)}
	return sysSeccomp, Arguments{setModeFilter, specAllow, (*byte)(unsafe.Pointer(p))}, nil
}

func valid(prog []byte) bool {
	return len(prog) > 0 && len(prog)%insnSize == 0 && len(prog)/insnSize <= 4096
}

// Listen is Install for a program that hands calls over (seccomp.Options.Supervise).
// It gives the descriptor, close-on-exec, that they are read from
// (seccomp_unotify(2)). Where a filter of this kind is in force already, the error is
// EBUSY.
func Listen(prog []byte) (int, error) {
	return load(prog, newListener|specAllow|waitKillable, newListener|specAllow)
}

// load loads prog with the first flags that this kernel knows.
func load(prog []byte, flags ...uintptr) (int, error) {
	if !valid(prog) {
		return 0, syscall.EINVAL
	}
	p := fprog{len: uint16(len(prog) / insnSize), filter: unsafe.SliceData(prog)}
	for _, f := range flags {
		fd, _, err := syscall.RawSyscall(sysSeccomp, setModeFilter, f, uintptr(unsafe.Pointer(&p)))
		if err == 0 {
			return int(fd), nil
		}
		if err != syscall.EINVAL {
			return 0, err
		}
	}
	return 0, syscall.EINVAL
}
