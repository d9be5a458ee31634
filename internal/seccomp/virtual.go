// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

// virtual gives the verdict for an allowed call when Options.Virtual is set. What a call
// does by a path is for the listener to do; execve(2) and chdir(2) change the process
// itself, so its tracer turns them into execveat(2) and fchdir(2), for which the listener
// gives it the files. Calls that name processes are handed over because the processes of
// a step are not apart from others here.
func virtual(name string, v verdict) verdict {
	switch v {
	case eperm, enosys:
		return v
	case checkClone:
		return checkCloneTraced
	case checkSocket:
		if name == "socketpair" {
			return checkSocketpair
		}
		return checkSocketVirtual
	}
	switch name {
	case "execve", "chdir":
		return trace
	case "open", "openat", "openat2", "creat",
		"stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "statfs",
		"mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat", "unlink", "unlinkat",
		"rename", "renameat", "renameat2",
		"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "truncate",
		"utime", "utimes", "futimesat", "utimensat", "inotify_add_watch",
		"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
		"getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
		"execveat", "fchdir", "getcwd", "chroot", "umask",
		"bind",
		"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups",
		"setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid", "setgroups",
		"capget", "capset", "prlimit64",
		"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open",
		"setpriority", "ioprio_set", "sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr",
		"migrate_pages", "move_pages":
		return notify
	case "fcntl", "fcntl64": // who is signalled for a file may be anybody
		return checkOwner
	case "prctl":
		return notifyPrctlAll
	case "getrlimit", "setrlimit":
		return notifyLimit
	case "ptrace", "process_vm_readv", "process_vm_writev", "userfaultfd", "uselib", "acct", "quotactl", "swapon", "swapoff",
		"name_to_handle_at", "fanotify_mark", "process_mrelease":
		return eperm
	case "setxattrat", "getxattrat", "listxattrat", "removexattrat", "file_getattr", "file_setattr":
		return enosys
	}
	return v
}
