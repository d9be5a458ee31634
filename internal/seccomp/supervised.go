// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

// supervised gives the verdict for an allowed call when Options.Supervise is set: the
// calls that see or change ids. openat2(2) has its flags behind a pointer. The calls
// for attributes that Linux 6.13 added are refused as if they were not there: programs
// then use the older ones.
func supervised(name string, v verdict) verdict {
	if v != allow {
		return v
	}
	switch name {
	case "stat", "lstat", "fstat", "newfstatat", "statx",
		"chown", "lchown", "fchown", "fchownat",
		"creat", "openat2", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat",
		"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
		"getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
		"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups",
		"setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid", "setgroups",
		"capget", "capset", "execve", "execveat", "chroot":
		return notify
	case "prctl":
		return notifyPrctl
	case "getrlimit", "setrlimit":
		return notifyLimit
	case "prlimit64":
		return notifyPrlimit
	case "open":
		return notifyOpen
	case "openat":
		return notifyOpenat
	case "setxattrat", "getxattrat", "listxattrat", "removexattrat":
		return enosys
	}
	return v
}
