// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers of system calls and constants that package syscall has not. Those of
// calls since Linux 5.1 are the same on every architecture.
const (
	sysCloseRange            = 436
	sysMoveMount             = 429
	sysMountSetattr          = 442
	sysOpenat2               = 437
	sysLandlockCreateRuleset = 444
	sysLandlockAddRule       = 445
	sysLandlockRestrictSelf  = 446

	oPath = 0x200000

	resolveNoMagicLinks = 0x02
	resolveNoSymlinks   = 0x04
	resolveInRoot       = 0x10

	closeRangeCloexec = 4

	prSetDumpable       = 4
	prSetName           = 15
	prCapbsetRead       = 23
	prCapbsetDrop       = 24
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38
	prCapAmbient        = 47
	prCapAmbientClear   = 4

	keyctlJoinSessionKeyring = 1

	atRecursive   = 0x8000
	moveFromEmpty = 4    // MOVE_MOUNT_F_EMPTY_PATH
	moveToEmpty   = 0x40 // MOVE_MOUNT_T_EMPTY_PATH

	cloneNewCgroup = 0x02000000
	cloneParent    = 0x8000

	tiocgptn    = 0x80045430
	tiocsptlck  = 0x40045431
	tiocgptpeer = 0x5441
)

func prctl(option, arg uintptr) error {
	return errnoErr(syscall.RawSyscall6(syscall.SYS_PRCTL, option, arg, 0, 0, 0, 0))
}

func errnoErr(_, _ uintptr, e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

type openHow struct{ flags, mode, resolve uint64 }

// openat2 opens path scoped to dirfd. The kernel answers EAGAIN when a rename
// somewhere coincides with a ".." that it must check.
func openat2(dirfd int, path string, flags int, resolve uint64) (*os.File, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return nil, err
	}
	how := openHow{flags: uint64(flags | syscall.O_CLOEXEC), resolve: resolve}
	for range 512 {
		fd, _, e := syscall.Syscall6(sysOpenat2, uintptr(dirfd), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		if e == 0 {
			return os.NewFile(fd, path), nil
		}
		if e != syscall.EAGAIN && e != syscall.EINTR {
			return nil, e
		}
	}
	return nil, syscall.EAGAIN
}

// openIn opens a clean relative path below dir, refusing every link.
func openIn(dir *os.File, path string, flags int) (*os.File, error) {
	return openat2(int(dir.Fd()), path, flags, resolveInRoot|resolveNoSymlinks|resolveNoMagicLinks)
}

// openAt opens an entry of a file system that this process made.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := syscall.Openat(int(dir.Fd()), name, flags|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func makeFile(dir *os.File, name string, perm uint32) error {
	fd, err := syscall.Openat(int(dir.Fd()), name, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, perm)
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}

func symlinkat(target string, dir *os.File, name string) error {
	t, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	n, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	return errnoErr(syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(t)), dir.Fd(), uintptr(unsafe.Pointer(n))))
}

// unlockTerminal gives the number and the other end of a new terminal.
func unlockTerminal(master int) (number, slave int, err error) {
	var lock, n int32
	if err := ioctl(master, tiocsptlck, unsafe.Pointer(&lock)); err != nil {
		return 0, -1, err
	}
	if err := ioctl(master, tiocgptn, unsafe.Pointer(&n)); err != nil {
		return 0, -1, err
	}
	// Not by name: the kernel gives the very other end of this one.
	fd, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(master), tiocgptpeer, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC)
	if e != 0 {
		return 0, -1, e
	}
	return int(n), int(fd), nil
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	return errnoErr(syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, uintptr(arg)))
}

// loopbackUp starts the loopback interface of a new network namespace.
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var ifreq struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(ifreq.name[:], "lo")
	ifreq.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	return ioctl(fd, syscall.SIOCSIFFLAGS, unsafe.Pointer(&ifreq))
}

func itoa(i int) string { return utoa(uint64(i)) }

func utoa(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		n /= 10
		if n == 0 {
			return string(b[i:])
		}
	}
}
