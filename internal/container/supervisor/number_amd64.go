// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import "syscall"

// audit is the architecture whose calls are answered (AUDIT_ARCH_X86_64).
const audit = 0xc000003e

// Calls that only old architectures have.
const (
	nrStat    = syscall.SYS_STAT
	nrLstat   = syscall.SYS_LSTAT
	nrOpen    = syscall.SYS_OPEN
	nrCreat   = syscall.SYS_CREAT
	nrMkdir   = syscall.SYS_MKDIR
	nrMknod   = syscall.SYS_MKNOD
	nrSymlink = syscall.SYS_SYMLINK
	nrChown   = syscall.SYS_CHOWN
	nrLchown  = syscall.SYS_LCHOWN
	nrAccess  = syscall.SYS_ACCESS
	nrFstatat = syscall.SYS_NEWFSTATAT
	nrStatx   = 332

	sysExecveat  = 322
	sysPrlimit   = 302
	sysVMReadv   = 310
	sysVMWritev  = 311
	sysFaccessat = 269
)
