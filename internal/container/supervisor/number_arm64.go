// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import "syscall"

// audit is the architecture whose calls are answered (AUDIT_ARCH_AARCH64).
const audit = 0xc00000b7

// Calls that this architecture has not: numbers that none has.
const (
	nrStat = -1 - iota
	nrLstat
	nrOpen
	nrCreat
	nrMkdir
	nrMknod
	nrSymlink
	nrChown
	nrLchown
	nrAccess
)

const (
	nrFstatat = syscall.SYS_FSTATAT
	nrStatx   = 291

	sysExecveat  = 281
	sysPrlimit   = 261
	sysVMReadv   = 270
	sysVMWritev  = 271
	sysFaccessat = 48
)
