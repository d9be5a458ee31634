// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import "syscall"

// Calls that this architecture has not: numbers that none has.
const (
	nrOpen = -2 - iota
	nrCreat
	nrStat
	nrLstat
	nrAccess
	nrReadlink
	nrMkdir
	nrMknod
	nrSymlink
	nrLink
	nrUnlink
	nrRmdir
	nrRename
	nrChmod
	nrChown
	nrLchown
	nrUtime
	nrUtimes
	nrFutimesat
)

const (
	sysFstatat          = syscall.SYS_FSTATAT
	sysStatx            = 291
	sysRenameat2        = 276
	sysExecveat         = 281
	sysMemfdCreate      = 279
	sysPrlimit          = 261
	sysRtTgsigqueueinfo = 240
	sysSchedSetattr     = 274
)
