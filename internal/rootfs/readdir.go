// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A Dirent is one name in a directory.
type Dirent struct {
	Name string
	Type uint8 // unix.DT_DIR, DT_REG …; DT_UNKNOWN where the file system does not say
}

// Offsets in the kernel's struct linux_dirent64, the same on all architectures.
const (
	direntReclen = 16
	direntType   = 18
	direntName   = 19
)

// direntBuf is large enough that most directories need two getdents64 calls.
const direntBuf = 32 << 10

// ReadDir returns the names in the directory, in the order of the file system,
// without "." and "..".
func (d *Dir) ReadDir() ([]Dirent, error) {
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathError("read directory", ".", err)
	}
	defer closeFd(fd)
	return readDir(fd)
}

// readDir reads all names from the position of fd on.
func readDir(fd int) ([]Dirent, error) {
	var list []Dirent
	buf := make([]byte, direntBuf)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, pathError("read directory", ".", err)
		}
		if n == 0 {
			return list, nil
		}
		list = appendDirents(list, buf[:n])
	}
}

func appendDirents(list []Dirent, buf []byte) []Dirent {
	for len(buf) > direntName {
		size := int(binary.NativeEndian.Uint16(buf[direntReclen:]))
		if size <= direntName || size > len(buf) {
			return list
		}
		name := buf[direntName:size]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if s := string(name); s != "." && s != ".." {
			list = append(list, Dirent{Name: s, Type: buf[direntType]})
		}
		buf = buf[size:]
	}
	return list
}
