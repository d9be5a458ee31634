// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// In a container whose /proc is partly covered the step has the /proc of that
// container (package initproc), which numbers processes as they are numbered there. A
// notification has the number inside. The kernel translates in one place: a pidfd's
// file in fdinfo has the number of the proc that it is read in.

// numbers finds processes in a /proc of another pid namespace.
type numbers struct {
	foreign bool
	self    uint32 // this process, as /proc has it
	known   [32]known
	next    int // the entry to be used next
	text    [256]byte
}

// known is a thread with the process that it belongs to.
type known struct {
	thread, process uint32 // as they are numbered inside
	fd              int    // pidfd of the process
	outside         uint32 // the process, as /proc has it
}

// look finds out what kind of /proc there is.
func (p *numbers) look() syscall.Errno {
	const link cstring = "/proc/self\x00"
	n, e := readlink(link.first(), p.text[:])
	if e != 0 {
		return e
	}
	v, _ := decimal(p.text[:n])
	p.self = uint32(v)
	p.foreign = int(v) != syscall.Getpid()
	return 0
}

// of gives the number under which /proc has the files of a thread: 0 if it is gone.
func (p *numbers) of(thread uint32) uint32 {
	if !p.foreign {
		return thread
	}
	for i := range p.known {
		if k := &p.known[i]; k.thread == thread && k.alive() {
			return k.outside
		}
	}
	process := p.leader(thread)
	if process == 0 {
		return 0
	}
	k := &p.known[p.next]
	p.next = (p.next + 1) % len(p.known)
	if k.thread != 0 {
		closeFd(k.fd)
	}
	*k = known{}
	fd, _, e := syscall.RawSyscall(sysPidfdOpen, uintptr(process), 0, 0)
	if e != 0 {
		return 0
	}
	*k = known{thread: thread, process: process, fd: int(fd), outside: p.translate(int(fd))}
	return k.outside
}

// alive tells whether the thread is still that of the process: their numbers may
// have been given to others.
func (k *known) alive() bool {
	_, _, e := syscall.RawSyscall6(sysPidfdSendSignal, uintptr(k.fd), 0, 0, 0, 0, 0)
	return e == 0 && belongs(k.thread, k.process)
}

func belongs(thread, process uint32) bool {
	_, _, e := syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(process), uintptr(thread), 0)
	return e == 0
}

// leader gives the number of the process that a thread belongs to: 0 if it is gone. Most
// calls are of the first thread, which has the same number.
func (p *numbers) leader(thread uint32) uint32 {
	if _, _, e := syscall.RawSyscall(syscall.SYS_TKILL, uintptr(thread), 0, 0); e != 0 {
		return 0
	}
	if belongs(thread, thread) {
		return thread
	}
	for i := range p.known {
		if k := &p.known[i]; k.thread != 0 && belongs(thread, k.process) {
			return k.process
		}
	}
	const most = 1 << 22 // PID_MAX_LIMIT of the kernel; it is near in nearly all cases
	for n := uint32(1); n < most; n++ {
		if n < thread && belongs(thread, thread-n) {
			return thread - n
		}
		if belongs(thread, thread+n) { // numbers began anew
			return thread + n
		}
	}
	return 0
}

// translate reads the number of a pidfd's process in /proc.
func (p *numbers) translate(pidfd int) uint32 {
	n := copy(p.text[:], "/proc/self/fdinfo/")
	n += putNumber(p.text[n:], uint64(pidfd))
	p.text[n] = 0
	fd, e := openat(atFdcwd, &p.text[0], syscall.O_RDONLY, 0)
	if e != 0 {
		return 0
	}
	defer closeFd(fd)
	got, _, e := syscall.Syscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p.text)), unsafe.Sizeof(p.text))
	if e != 0 {
		return 0
	}
	const key = "\nPid:\t"
	for i := 0; i+len(key) < int(got); i++ {
		if string(p.text[i:i+len(key)]) == key {
			end := i + len(key)
			for end < int(got) && p.text[end] >= '0' && p.text[end] <= '9' {
				end++
			}
			v, _ := decimal(p.text[i+len(key) : end])
			return uint32(v)
		}
	}
	return 0
}
