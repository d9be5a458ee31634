// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import "syscall"

// answer says what becomes of the call that was received. The calls here are those
// that package seccomp hands over.
func (s *supervisor) answer() answer {
	if s.call.arch != audit {
		return passed()
	}
	a := &s.call.args
	switch int(s.call.nr) {
	case nrStat:
		return s.statPath(atFdcwd, a[0], 0, writeStat1)
	case nrLstat:
		return s.statPath(atFdcwd, a[0], atSymlinkNofollow, writeStat1)
	case syscall.SYS_FSTAT:
		return s.statFile(arg32(a[0]), writeStat1)
	case nrFstatat:
		return s.statPath(arg32(a[0]), a[1], uint32(a[3]), writeStat2)
	case nrStatx:
		return s.statPath(arg32(a[0]), a[1], uint32(a[2]), writeStatx)
	case nrOpen:
		return s.openCreate(atFdcwd, a[0], int(a[1]), uint32(a[2]))
	case syscall.SYS_OPENAT:
		return s.openCreate(arg32(a[0]), a[1], int(uint32(a[2])), uint32(a[3]))
	case nrCreat:
		return s.openCreate(atFdcwd, a[0], syscall.O_CREAT|syscall.O_WRONLY|syscall.O_TRUNC, uint32(a[1]))
	case sysOpenat2:
		return s.open2(arg32(a[0]), a[1], a[2], a[3])
	case nrMkdir:
		return s.mkdir(atFdcwd, a[0], uint32(a[1]))
	case syscall.SYS_MKDIRAT:
		return s.mkdir(arg32(a[0]), a[1], uint32(a[2]))
	case nrMknod:
		return s.mknod(atFdcwd, a[0], uint32(a[1]))
	case syscall.SYS_MKNODAT:
		return s.mknod(arg32(a[0]), a[1], uint32(a[2]))
	case nrSymlink:
		return s.symlink(a[0], atFdcwd, a[1])
	case syscall.SYS_SYMLINKAT:
		return s.symlink(a[0], arg32(a[1]), a[2])
	case nrChown:
		return s.chownPath(atFdcwd, a[0], uint32(a[1]), uint32(a[2]), 0)
	case nrLchown:
		return s.chownPath(atFdcwd, a[0], uint32(a[1]), uint32(a[2]), atSymlinkNofollow)
	case syscall.SYS_FCHOWN:
		return s.chownFile(arg32(a[0]), uint32(a[1]), uint32(a[2]))
	case syscall.SYS_FCHOWNAT:
		return s.chownPath(arg32(a[0]), a[1], uint32(a[2]), uint32(a[3]), uint32(a[4]))
	case syscall.SYS_CHROOT:
		return s.chroot()
	}
	return s.answerAttr()
}

// answerAttr is answer for calls about attributes.
func (s *supervisor) answerAttr() answer {
	a := &s.call.args
	path, file := attrFile{addr: a[0], follow: true}, attrFile{fd: arg32(a[0])}
	link := attrFile{addr: a[0]}
	switch int(s.call.nr) {
	case syscall.SYS_SETXATTR:
		return s.setAttr(path, a[1], a[2], a[3])
	case syscall.SYS_LSETXATTR:
		return s.setAttr(link, a[1], a[2], a[3])
	case syscall.SYS_FSETXATTR:
		return s.setAttr(file, a[1], a[2], a[3])
	case syscall.SYS_REMOVEXATTR:
		return s.removeAttr(path, a[1])
	case syscall.SYS_LREMOVEXATTR:
		return s.removeAttr(link, a[1])
	case syscall.SYS_FREMOVEXATTR:
		return s.removeAttr(file, a[1])
	case syscall.SYS_GETXATTR:
		return s.getAttr(path, a[1], a[2], a[3])
	case syscall.SYS_LGETXATTR:
		return s.getAttr(link, a[1], a[2], a[3])
	case syscall.SYS_FGETXATTR:
		return s.getAttr(file, a[1], a[2], a[3])
	case syscall.SYS_LISTXATTR:
		return s.listAttr(path, a[1], a[2])
	case syscall.SYS_LLISTXATTR:
		return s.listAttr(link, a[1], a[2])
	case syscall.SYS_FLISTXATTR:
		return s.listAttr(file, a[1], a[2])
	}
	return s.answerIDs()
}

// answerIDs is answer for calls about the ids of the process.
func (s *supervisor) answerIDs() answer {
	switch int(s.call.nr) {
	case syscall.SYS_GETUID:
		return done(int64(s.creds().uid[real]))
	case syscall.SYS_GETEUID:
		return done(int64(s.creds().uid[effective]))
	case syscall.SYS_GETGID:
		return done(int64(s.creds().gid[real]))
	case syscall.SYS_GETEGID:
		return done(int64(s.creds().gid[effective]))
	case syscall.SYS_GETRESUID:
		return s.getThree(s.creds().uid)
	case syscall.SYS_GETRESGID:
		return s.getThree(s.creds().gid)
	case syscall.SYS_GETGROUPS:
		return s.getGroups()
	case syscall.SYS_SETUID:
		return s.setUID(setOne)
	case syscall.SYS_SETREUID:
		return s.setUID(setTwo)
	case syscall.SYS_SETRESUID:
		return s.setUID(setThree)
	case syscall.SYS_SETFSUID:
		return s.setFSID(false)
	case syscall.SYS_SETGID:
		return s.setGID(setOne)
	case syscall.SYS_SETREGID:
		return s.setGID(setTwo)
	case syscall.SYS_SETRESGID:
		return s.setGID(setThree)
	case syscall.SYS_SETFSGID:
		return s.setFSID(true)
	case syscall.SYS_SETGROUPS:
		return s.setGroups()
	case syscall.SYS_CAPGET:
		return s.capGet()
	case syscall.SYS_CAPSET:
		return s.capSet()
	case syscall.SYS_PRCTL:
		return s.prctl()
	case syscall.SYS_GETRLIMIT:
		return s.limitCall(s.call.args[1])
	case syscall.SYS_SETRLIMIT:
		return s.limitCall(0)
	case sysPrlimit:
		return s.limitCall(s.call.args[3])
	case syscall.SYS_EXECVE:
		return s.exec(atFdcwd, s.call.args[0], 0)
	case sysExecveat:
		return s.exec(arg32(s.call.args[0]), s.call.args[1], uint32(s.call.args[4]))
	}
	return passed()
}
