// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import "syscall"

// Calls that only old architectures have.
const (
	nrOpen      = syscall.SYS_OPEN
	nrCreat     = syscall.SYS_CREAT
	nrStat      = syscall.SYS_STAT
	nrLstat     = syscall.SYS_LSTAT
	nrAccess    = syscall.SYS_ACCESS
	nrReadlink  = syscall.SYS_READLINK
	nrMkdir     = syscall.SYS_MKDIR
	nrMknod     = syscall.SYS_MKNOD
	nrSymlink   = syscall.SYS_SYMLINK
	nrLink      = syscall.SYS_LINK
	nrUnlink    = syscall.SYS_UNLINK
	nrRmdir     = syscall.SYS_RMDIR
	nrRename    = syscall.SYS_RENAME
	nrChmod     = syscall.SYS_CHMOD
	nrChown     = syscall.SYS_CHOWN
	nrLchown    = syscall.SYS_LCHOWN
	nrUtime     = syscall.SYS_UTIME
	nrUtimes    = syscall.SYS_UTIMES
	nrFutimesat = syscall.SYS_FUTIMESAT
)

const (
	sysFstatat          = syscall.SYS_NEWFSTATAT
	sysStatx            = 332
	sysRenameat2        = 316
	sysExecveat         = 322
	sysMemfdCreate      = 319
	sysPrlimit          = 302
	sysRtTgsigqueueinfo = 297
	sysSchedSetattr     = 314
)
