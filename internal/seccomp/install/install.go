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
	if len(prog) == 0 || len(prog)%insnSize != 0 || len(prog)/insnSize > 4096 {
		return syscall.EINVAL
	}
	p := fprog{len: uint16(len(prog) / insnSize), filter: unsafe.SliceData(prog)}
	// Kernels before 5.16 would turn on a costly Spectre mitigation for every filtered
	// process; those before 4.17 do not know the flag.
	err := load(specAllow, &p)
	if err == syscall.EINVAL {
		err = load(0, &p)
	}
	if err != 0 {
		return err
	}
	return nil
}

func load(flags uintptr, p *fprog) syscall.Errno {
	_, _, err := syscall.RawSyscall(sysSeccomp, setModeFilter, flags, uintptr(unsafe.Pointer(p)))
	return err
}
