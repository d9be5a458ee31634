// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

// namespaceFlags are the CLONE_NEW* flags that clone(2) takes: NS, CGROUP, UTS, IPC, USER,
// PID, NET. TIME is none of them: clone has the exit signal in those bits.
const namespaceFlags = 0x7e020000

// cloneUntraced is CLONE_UNTRACED: the child would not be seen by who traces the parent.
const cloneUntraced = 0x00800000

// Requests of ioctl(2) that put characters or a selection into the input of a terminal: a step
// that shares one with its caller could type commands there.
const (
	tiocsti   = 0x5412
	tioclinux = 0x541c
)

// Requests that set who gets the signals of a socket or terminal, by a pointer to its number.
const (
	fiosetown = 0x8901
	siocspgrp = 0x8902
)

// Requests that change files which need not be open for writing (linux/fs.h, fscrypt.h, fsverity.h), and
// those of the kind of btrfs that all file systems know.
const (
	fsSetFlags      = 0x40086602 // chattr(1)
	fsSetAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	fsSetVersion    = 0x40087602
	fsSetEncryption = 0x800c6613
	fsEnableVerity  = 0x40806685

	fiClone       = 0x40049409
	fiCloneRange  = 0x4020940d
	fiDedupeRange = 0xc0189436
)

// Options of prctl(2) that change what becomes of capabilities with another id.
const (
	prSetKeepCaps   = 8
	prSetSecureBits = 28

	// What else the listener of Options.Virtual answers: it could not read the memory of a
	// process that is not dumpable, and the capabilities are its invention.
	prSetDumpable = 4
	prCapbsetRead = 23
	prCapbsetDrop = 24
	prCapAmbient  = 47
)

// rlimitLocks is RLIMIT_LOCKS, where the supervisor keeps which ids a process has.
const rlimitLocks = 10

// creates are the flags of open(2) by which it makes a file: O_CREAT and __O_TMPFILE,
// which are the same on all our architectures.
const creates = 0x40 | 0x400000

// Address families of socket(2).
const (
	afUnix    = 1
	afInet    = 2
	afInet6   = 10
	afNetlink = 16
	afPacket  = 17
)

// argumentCheck returns the code for a verdict that depends on arguments, ending in returns.
func argumentCheck(v verdict, o Options) []insn {
	switch v {
	case checkClone:
		// On all our architectures the flags are the first argument.
		return []insn{
			arg(0),
			{code: jset, k: namespaceFlags, jf: 1},
			{code: ret, k: retEPERM},
			{code: ret, k: retAllow},
		}
	case checkCloneTraced:
		return []insn{
			arg(0),
			{code: jset, k: namespaceFlags | cloneUntraced, jf: 1},
			{code: ret, k: retEPERM},
			{code: ret, k: retAllow},
		}
	case checkSocketpair:
		return append([]insn{arg(0), {code: jeq, k: afUnix, jt: 1}, {code: ret, k: retEPERM}}, streamOnly()...)
	case checkOwner:
		const setOwn, setOwnEx = 8, 15 // F_SETOWN, F_SETOWN_EX
		return oneOf(arg(1), []uint32{setOwn, setOwnEx}, retNotify, retAllow)
	case checkOwnLimits:
		return oneOf(arg(0), []uint32{0}, retAllow, retEPERM) // 0: the caller
	case checkSocketVirtual:
		families := []uint32{afInet, afInet6, afNetlink}
		if o.NoNetwork {
			families = nil
		}
		// A Unix socket could connect to any name outside: the listener can look at the
		// address, but another thread can change it before the kernel reads it again.
		unix := []insn{arg(0), {code: jeq, k: afUnix, jf: 1}, {code: ret, k: retNoUnix}}
		return append(unix, oneOf(insn{}, families, retAllow, retEPERM)[1:]...)
	case notifyPrctlAll:
		return oneOf(arg(0), []uint32{prSetDumpable, prSetKeepCaps, prCapbsetRead, prCapbsetDrop, prSetSecureBits, prCapAmbient}, retNotify, retAllow)
	case checkSocket:
		families := []uint32{afUnix, afInet, afInet6, afNetlink}
		if o.NoNetwork {
			families = families[:1]
		}
		if o.Caps&(1<<capNetRaw) != 0 {
			// The kernel asks for the capability over the network namespace itself, so this
			// opens nothing where the step shares the host's network.
			families = append(families, afPacket)
		}
		return oneOf(arg(0), families, retAllow, retEPERM)
	case checkPersonality:
		// PER_LINUX, PER_LINUX32, each also with UNAME26, and the question for the current one.
		return oneOf(arg(0), []uint32{0, 8, 0x20000, 0x20008, 0xffffffff}, retAllow, retEPERM)
	case notifyOpen, notifyOpenat:
		flags := uint32(1)
		if v == notifyOpenat {
			flags = 2
		}
		return []insn{
			arg(flags),
			{code: jset, k: creates, jf: 1},
			{code: ret, k: retNotify},
			{code: ret, k: retAllow},
		}
	case notifyLimit:
		return oneOf(arg(0), []uint32{rlimitLocks}, retNotify, retAllow)
	case notifyPrlimit:
		return oneOf(arg(1), []uint32{rlimitLocks}, retNotify, retAllow)
	case notifyPrctl:
		return oneOf(arg(0), []uint32{prSetKeepCaps, prSetSecureBits}, retNotify, retAllow)
	case checkIoctl:
		if o.Virtual {
			return ioctlVirtual()
		}
		return oneOf(arg(1), []uint32{tiocsti, tioclinux}, retEPERM, retAllow)
	default:
		return []insn{{code: ret, k: retEPERM}}
	}
}

// ioctlVirtual returns the code for requests of ioctl(2) at the level vroot. A file that is shown
// read-only is so by the listener's word only: to the kernel the step has it open as its owner,
// who may change what is beside the content without having it open for writing.
func ioctlVirtual() []insn {
	const typeMask, btrfs = 0xff00, 0x9400 // of a request
	out := []insn{arg(1)}
	out = append(out, matching([]uint32{fsSetFlags, fsSetAttributes}, retNotify)...)
	out = append(out, matching([]uint32{tiocsti, tioclinux, fiosetown, siocspgrp, fsSetVersion, fsSetEncryption, fsEnableVerity}, retEPERM)...)
	out = append(out, matching([]uint32{fiClone, fiCloneRange, fiDedupeRange}, retAllow)...)
	out = append(out, insn{code: and, k: typeMask})
	out = append(out, matching([]uint32{btrfs}, retEPERM)...) // subvolumes and their flags
	return append(out, insn{code: ret, k: retAllow})
}

// matching returns the code that ends with r where the loaded word is one of values, and goes on
// behind it where it is not.
func matching(values []uint32, r uint32) []insn {
	var out []insn
	for i, v := range values {
		out = append(out, insn{code: jeq, k: v, jt: uint8(len(values) - i)})
	}
	return append(out, insn{code: ja, k: 1}, insn{code: ret, k: r})
}

// streamOnly returns the code that refuses sockets of messages
// without a connection: each message can be sent to another name, which no listener sees
// unless it looks at every message.
func streamOnly() []insn {
	const typeMask, datagram, raw = 0xf, 2, 3 // the kernel takes one for the other in AF_UNIX
	return append([]insn{arg(1), {code: and, k: typeMask}}, oneOf(insn{}, []uint32{datagram, raw}, retNoType, retAllow)[1:]...)
}

// oneOf returns the code that gives yes where the loaded word is one of values, else no.
func oneOf(load insn, values []uint32, yes, no uint32) []insn {
	out := []insn{load}
	for i, v := range values {
		out = append(out, insn{code: jeq, k: v, jt: uint8(len(values) - i)})
	}
	return append(out, insn{code: ret, k: no}, insn{code: ret, k: yes})
}
