// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// A step without namespaces has not the right to call chroot(2). But there are programs that do so
// before each script to be in the root that they were told, which is mostly the one they are in:
// apk-tools before version 3 does. So the first process of the step answers that call: it succeeds,
// and does nothing, where the root directory would stay what it is.

// notification is struct seccomp_notif, with struct seccomp_data in it.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

const (
	notifReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifSend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// answerRoot answers the calls of a listener, all of which are chroot(2), until there are no more.
func answerRoot(listener int) {
	for {
		n := new(notification)
		_, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), notifReceive, uintptr(unsafe.Pointer(n)))
		if e == syscall.EINTR || e == syscall.ENOENT && !abandoned(listener) { // the caller was killed meanwhile
			continue
		}
		if e != 0 {
			_ = syscall.Close(listener) // then calls give ENOSYS
			return
		}
		r := &response{id: n.id}
		if !staysRoot(utoa(uint64(n.pid)), n.args[0]) {
			r.errno = -int32(syscall.EPERM)
		}
		// An error: the caller is gone.
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), notifSend, uintptr(unsafe.Pointer(r)))
	}
}

// abandoned tells whether no process is left whose calls a listener could get: from Linux 6.11 on it
// does not wait for ever then.
func abandoned(listener int) bool {
	const pollHup = 0x10
	p := struct {
		fd              int32
		events, revents int16
	}{fd: int32(listener)}
	var now syscall.Timespec
	n, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return e == 0 && n == 1 && p.revents&pollHup != 0
}

// staysRoot tells whether the path at addr of a process is its root directory, by one of the names
// that it always has. What the process changes while it is looked at makes a wrong answer, which
// does nothing either. Of processes of other users than this one nothing can be seen.
func staysRoot(pid string, addr uint64) bool {
	mem, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		return false
	}
	defer mem.Close()
	var b [16]byte // more than such a name needs
	n, err := syscall.Pread(int(mem.Fd()), b[:], int64(addr))
	if err != nil {
		return false
	}
	path, _, ended := strings.Cut(string(b[:max(n, 0)]), "\x00")
	if !ended || path == "" || strings.Trim(path, "/.") != "" || strings.Contains(path, "..") {
		return false
	}
	if path[0] == '/' {
		return true
	}
	var cwd, root syscall.Stat_t
	return syscall.Stat("/proc/"+pid+"/cwd", &cwd) == nil && syscall.Stat("/proc/"+pid+"/root", &root) == nil && cwd.Dev == root.Dev && cwd.Ino == root.Ino
}

// sendListener gives the listener of this process's filter to the first process of the step.
func sendListener(fd int) error {
	err := syscall.Sendmsg(controlFd, []byte{listenerMark}, syscall.UnixRights(fd), nil, 0)
	if cerr := syscall.Close(fd); err == nil {
		err = cerr
	}
	return err
}

// listenerMark is the byte that a listener comes with: no report begins with it.
const listenerMark = 'l'

// readInner reads what the second process says until it is closed; a listener is handed to listen.
func readInner(fd int, listen func(listener int)) []byte {
	var out []byte
	var b [4096]byte
	var oob [64]byte
	for {
		n, oobn, _, _, err := syscall.Recvmsg(fd, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return out
		}
		data := b[:n]
		if got := rights(oob[:oobn]); len(got) == 1 && data[0] == listenerMark {
			listen(got[0])
			data = data[1:]
		}
		out = append(out, data...)
	}
}

// rights gives the descriptors of a message.
func rights(oob []byte) []int {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil
	}
	fds, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil
	}
	return fds
}
