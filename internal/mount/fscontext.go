// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers of system calls since Linux 5.1 are the same on every architecture.
const (
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysFsopen       = 430
	sysFsconfig     = 431
	sysFsmount      = 432
	sysMountSetattr = 442
)

const (
	atFdcwd           = -100
	atSymlinkNofollow = 0x100
	atEmptyPath       = 0x1000
	atRecursive       = 0x8000

	cloexec       = syscall.O_CLOEXEC
	openTreeClone = 1
	moveFromEmpty = 0x4  // MOVE_MOUNT_F_EMPTY_PATH
	moveToEmpty   = 0x40 // MOVE_MOUNT_T_EMPTY_PATH

	fsopenCloexec  = 1
	fsmountCloexec = 1

	// Commands of fsconfig(2).
	setFlag   = 0
	setString = 1
	create    = 6
)

// context is a file system that is being configured.
type context struct {
	fd     uintptr
	fstype string
}

func open(fstype string) (*context, error) {
	p, err := syscall.BytePtrFromString(fstype)
	if err != nil {
		return nil, &Error{Op: "fsopen", Err: syscall.EINVAL}
	}
	fd, _, errno := syscall.Syscall(sysFsopen, uintptr(unsafe.Pointer(p)), fsopenCloexec, 0)
	if errno != 0 {
		return nil, &Error{Op: "fsopen " + fstype, Err: errno}
	}
	return &context{fd, fstype}, nil
}

func (c *context) close() { _ = syscall.Close(int(c.fd)) }

func (c *context) set(o Option) error {
	if o.Value == "" {
		return c.config(setFlag, o.Key, nil, 0)
	}
	v, err := syscall.BytePtrFromString(o.Value)
	if err != nil {
		return &Error{Op: "fsconfig " + c.fstype + " " + o.Key, Err: syscall.EINVAL}
	}
	return c.config(setString, o.Key, v, 0)
}

func (c *context) config(cmd uintptr, key string, value *byte, aux uintptr) error {
	var k *byte
	if key != "" {
		k, _ = syscall.BytePtrFromString(key) // keys are constants of this program
	}
	_, _, errno := syscall.Syscall6(sysFsconfig, c.fd, cmd, uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(value)), aux, 0)
	if errno != 0 {
		op := "create"
		if key != "" {
			op = key
		}
		return &Error{Op: "fsconfig " + c.fstype + " " + op, Err: errno, Log: c.log()}
	}
	return nil
}

// mount makes the configured file system and its detached mount.
func (c *context) mount(attr Attr) (*os.File, error) {
	if err := c.config(create, "", nil, 0); err != nil {
		return nil, err
	}
	fd, _, errno := syscall.Syscall(sysFsmount, c.fd, fsmountCloexec, uintptr(attr))
	if errno != 0 {
		return nil, &Error{Op: "fsmount " + c.fstype, Err: errno, Log: c.log()}
	}
	return os.NewFile(fd, c.fstype), nil
}

// log reads what the file system has to say: lines that begin "e ", "w " or "i ".
func (c *context) log() string {
	var all string
	var buf [1024]byte
	for range 8 {
		n, err := syscall.Read(int(c.fd), buf[:])
		if err != nil || n < 2 {
			break
		}
		line := string(buf[2:n])
		for line != "" && line[len(line)-1] == '\n' {
			line = line[:len(line)-1]
		}
		if all != "" {
			all += "; "
		}
		all += line
	}
	return all
}
