// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import "syscall"

// answer says what becomes of the call that was received. The calls here are those that
// package seccomp hands over.
func (e *engine) answer() answer {
	if value, errno, kernel, ok := e.core.AnswerIDs(); ok && e.call.NR >= 0 {
		if kernel {
			return passed()
		}
		return answer{value: value, errno: errno}
	}
	if a, ok := e.answerFiles(); ok {
		return a
	}
	if a, ok := e.answerNames(); ok {
		return a
	}
	if a, ok := e.answerAttributes(); ok {
		return a
	}
	return e.answerProcess()
}

// answerFiles is answer for calls that open files and look at them.
func (e *engine) answerFiles() (answer, bool) {
	a := &e.call.Args
	switch e.call.NR {
	case nrOpen:
		return e.open(atFdcwd, a[0], arg32(a[1]), uint32(a[2])), true
	case nrCreat:
		return e.open(atFdcwd, a[0], syscall.O_CREAT|syscall.O_WRONLY|syscall.O_TRUNC, uint32(a[1])), true
	case syscall.SYS_OPENAT:
		return e.open(arg32(a[0]), a[1], arg32(a[2]), uint32(a[3])), true
	case sysOpenat2:
		return e.open2(arg32(a[0]), a[1], a[2], a[3]), true
	case nrStat:
		return e.stat(atFdcwd, a[0], 0, e.writeStat(a[1])), true
	case nrLstat:
		return e.stat(atFdcwd, a[0], atSymlinkNofollow, e.writeStat(a[1])), true
	case syscall.SYS_FSTAT:
		return e.statFile(arg32(a[0]), e.writeStat(a[1])), true
	case sysFstatat:
		return e.stat(arg32(a[0]), a[1], a[3], e.writeStat(a[2])), true
	case sysStatx:
		return e.stat(arg32(a[0]), a[1], a[2], e.writeStatx(a[2], a[3], a[4])), true
	case nrAccess:
		return e.access(atFdcwd, a[0], a[1], 0), true
	case syscall.SYS_FACCESSAT:
		return e.access(arg32(a[0]), a[1], a[2], 0), true
	case sysFaccessat2:
		return e.access(arg32(a[0]), a[1], a[2], a[3]), true
	case nrReadlink:
		return e.readlink(atFdcwd, a[0], a[1], a[2]), true
	case syscall.SYS_READLINKAT:
		return e.readlink(arg32(a[0]), a[1], a[2], a[3]), true
	case syscall.SYS_STATFS:
		return e.statfs(a[0], a[1]), true
	}
	return answer{}, false
}

// answerNames is answer for calls that change directories.
func (e *engine) answerNames() (answer, bool) {
	a := &e.call.Args
	switch e.call.NR {
	case nrMkdir:
		return e.mkdir(atFdcwd, a[0], uint32(a[1])), true
	case syscall.SYS_MKDIRAT:
		return e.mkdir(arg32(a[0]), a[1], uint32(a[2])), true
	case nrMknod:
		return e.mknod(atFdcwd, a[0], uint32(a[1]), a[2]), true
	case syscall.SYS_MKNODAT:
		return e.mknod(arg32(a[0]), a[1], uint32(a[2]), a[3]), true
	case nrSymlink:
		return e.symlink(a[0], atFdcwd, a[1]), true
	case syscall.SYS_SYMLINKAT:
		return e.symlink(a[0], arg32(a[1]), a[2]), true
	case nrLink:
		return e.link(atFdcwd, a[0], atFdcwd, a[1], 0), true
	case syscall.SYS_LINKAT:
		return e.link(arg32(a[0]), a[1], arg32(a[2]), a[3], arg32(a[4])), true
	case nrUnlink:
		return e.unlink(atFdcwd, a[0], 0), true
	case nrRmdir:
		return e.unlink(atFdcwd, a[0], atRemoveDir), true
	case syscall.SYS_UNLINKAT:
		return e.unlink(arg32(a[0]), a[1], arg32(a[2])), true
	case nrRename:
		return e.rename(atFdcwd, a[0], atFdcwd, a[1], 0), true
	case syscall.SYS_RENAMEAT:
		return e.rename(arg32(a[0]), a[1], arg32(a[2]), a[3], 0), true
	case sysRenameat2:
		return e.rename(arg32(a[0]), a[1], arg32(a[2]), a[3], a[4]), true
	}
	return answer{}, false
}

// answerAttributes is answer for calls that change what describes a file.
func (e *engine) answerAttributes() (answer, bool) {
	a := &e.call.Args
	switch e.call.NR {
	case nrChmod:
		return e.change(atFdcwd, a[0], true, false, e.chmod(uint32(a[1]))), true
	case syscall.SYS_FCHMOD:
		return e.changeFile(arg32(a[0]), e.chmod(uint32(a[1]))), true
	case syscall.SYS_FCHMODAT:
		return e.change(arg32(a[0]), a[1], true, false, e.chmod(uint32(a[2]))), true
	case sysFchmodat2:
		return e.change(arg32(a[0]), a[1], a[3]&atSymlinkNofollow == 0, a[3]&atEmptyPath != 0, e.chmod(uint32(a[2]))), true
	case nrChown:
		return e.change(atFdcwd, a[0], true, false, e.chown(uint32(a[1]), uint32(a[2]))), true
	case nrLchown:
		return e.change(atFdcwd, a[0], false, false, e.chown(uint32(a[1]), uint32(a[2]))), true
	case syscall.SYS_FCHOWN:
		return e.changeFile(arg32(a[0]), e.chown(uint32(a[1]), uint32(a[2]))), true
	case syscall.SYS_FCHOWNAT:
		return e.change(arg32(a[0]), a[1], a[4]&atSymlinkNofollow == 0, a[4]&atEmptyPath != 0, e.chown(uint32(a[2]), uint32(a[3]))), true
	case syscall.SYS_TRUNCATE:
		return e.truncate(a[0], a[1]), true
	case nrUtime:
		return e.utime(a[0], a[1]), true
	case nrUtimes:
		return e.utimens(atFdcwd, a[0], a[1], true, 0), true
	case nrFutimesat:
		return e.utimens(arg32(a[0]), a[1], a[2], true, 0), true
	case syscall.SYS_UTIMENSAT:
		return e.utimens(arg32(a[0]), a[1], a[2], false, arg32(a[3])), true
	}
	path, link, file := attrFile{addr: a[0], follow: true}, attrFile{addr: a[0]}, attrFile{fd: arg32(a[0])}
	switch e.call.NR {
	case syscall.SYS_SETXATTR:
		return e.setAttr(path, a[1], a[2], a[3], a[4]), true
	case syscall.SYS_LSETXATTR:
		return e.setAttr(link, a[1], a[2], a[3], a[4]), true
	case syscall.SYS_FSETXATTR:
		return e.setAttr(file, a[1], a[2], a[3], a[4]), true
	case syscall.SYS_GETXATTR:
		return e.getAttr(path, a[1], a[2], a[3]), true
	case syscall.SYS_LGETXATTR:
		return e.getAttr(link, a[1], a[2], a[3]), true
	case syscall.SYS_FGETXATTR:
		return e.getAttr(file, a[1], a[2], a[3]), true
	case syscall.SYS_LISTXATTR:
		return e.listAttr(path, a[1], a[2]), true
	case syscall.SYS_LLISTXATTR:
		return e.listAttr(link, a[1], a[2]), true
	case syscall.SYS_FLISTXATTR:
		return e.listAttr(file, a[1], a[2]), true
	case syscall.SYS_REMOVEXATTR:
		return e.removeAttr(path, a[1]), true
	case syscall.SYS_LREMOVEXATTR:
		return e.removeAttr(link, a[1]), true
	case syscall.SYS_FREMOVEXATTR:
		return e.removeAttr(file, a[1]), true
	}
	return answer{}, false
}

// answerProcess is answer for calls about processes.
func (e *engine) answerProcess() answer {
	const ioprioProcess, prioProcess = 1, 0
	a := &e.call.Args
	switch e.call.NR {
	case syscall.SYS_GETCWD:
		return e.getcwd(a[0], a[1])
	case syscall.SYS_CHROOT:
		return e.chroot(a[0])
	case syscall.SYS_UMASK:
		return e.setUmask(a[0])
	case syscall.SYS_PRCTL:
		return e.prctl()
	case sysExecveat, syscall.SYS_FCHDIR:
		return e.answerTraced()
	case syscall.SYS_BIND:
		return e.bind()
	case syscall.SYS_FCNTL:
		return e.fcntl()
	case syscall.SYS_IOCTL:
		return e.ioctl(arg32(a[0]), uint32(a[1]), a[2])
	case syscall.SYS_KILL:
		return e.kill(arg32(a[0]), a[1])
	case syscall.SYS_SETPRIORITY:
		return e.priority(prioProcess)
	case syscall.SYS_IOPRIO_SET:
		return e.priority(ioprioProcess)
	case syscall.SYS_INOTIFY_ADD_WATCH:
		return fails(syscall.ENOSPC) // programs then look again and again
	case syscall.SYS_TKILL, syscall.SYS_TGKILL, syscall.SYS_RT_SIGQUEUEINFO, sysRtTgsigqueueinfo, sysPidfdOpen, sysPrlimit,
		syscall.SYS_SCHED_SETAFFINITY, syscall.SYS_SCHED_SETPARAM, syscall.SYS_SCHED_SETSCHEDULER, sysSchedSetattr,
		syscall.SYS_MIGRATE_PAGES, syscall.SYS_MOVE_PAGES:
		return e.ofStep(arg32(a[0]))
	}
	return fails(syscall.ENOSYS)
}
