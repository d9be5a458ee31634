// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"

	"build.stacker.dev/internal/mount"
)

// Device is a character device.
type Device struct {
	Name         string // in /dev
	Major, Minor uint64
}

// Devices are the only ones that a step sees.
func Devices() [6]Device {
	return [...]Device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
}

var devLinks = [...][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
}

// mountDev makes a /dev of its own; nothing that the image has there is looked at.
func (c *container) mountDev() error {
	m, err := mount.New("tmpfs", quiet, mount.Option{Key: "mode", Value: "755"}, mount.Option{Key: "size", Value: "65536k"})
	if err != nil {
		return fail("mount /dev", err)
	}
	if err := c.attachAt(m, "dev"); err != nil {
		return err
	}
	c.dev = m
	for _, n := range Devices() {
		if err := c.bindDevice(n.Name, n.Major, n.Minor); err != nil {
			return fail("mount /dev/"+n.Name, err)
		}
	}
	for _, l := range devLinks {
		if err := symlinkat(l[0], m, l[1]); err != nil {
			return fail("make /dev/"+l[1], err)
		}
	}
	if err := c.mountPts(); err != nil {
		return fail("mount /dev/pts", err)
	}
	_, err = c.devDir("shm", "tmpfs", mount.Option{Key: "mode", Value: "1777"}, mount.Option{Key: "size", Value: utoa(c.ShmSize)})
	if err != nil {
		return fail("mount /dev/shm", err)
	}
	if _, err = c.devDir("mqueue", "mqueue"); err != nil {
		return fail("mount /dev/mqueue", err)
	}
	return nil
}

// device gives a detached mount of one device of outside, after looking that it
// is that device.
func device(name string, major, minor uint64) (*os.File, error) {
	m, err := mount.ClonePath("/dev/"+name, false)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(m.Fd()), &st); err != nil {
		return nil, err
	}
	// Majors and minors below 256 are the two low bytes of the number.
	if st.Mode&syscall.S_IFMT != syscall.S_IFCHR || uint64(st.Rdev) != major<<8|minor {
		return nil, syscall.ENODEV
	}
	return m, nil
}

func (c *container) bindDevice(name string, major, minor uint64) error {
	m, err := device(name, major, minor)
	if err != nil {
		return err
	}
	defer m.Close()
	return c.bindFile(m, name)
}

// bindFile shows a detached mount of a file as a new entry of /dev.
func (c *container) bindFile(m *os.File, name string) error {
	if err := makeFile(c.dev, name, 0o666); err != nil {
		return err
	}
	at, err := openIn(c.dev, name, oPath)
	if err != nil {
		return err
	}
	defer at.Close()
	return mount.Attach(m, at)
}

// devDir mounts a new file system on a new directory of /dev.
func (c *container) devDir(name, fstype string, options ...mount.Option) (*os.File, error) {
	if err := syscall.Mkdirat(int(c.dev.Fd()), name, 0o755); err != nil {
		return nil, err
	}
	at, err := openIn(c.dev, name, oPath|syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	attr := quiet
	if fstype == "devpts" {
		attr &^= mount.NoDev
	}
	m, err := mount.New(fstype, attr, options...)
	if err != nil {
		return nil, err
	}
	return m, mount.Attach(m, at)
}

const ttyGroup = "5" // in every distribution

func (c *container) mountPts() error {
	options := []mount.Option{{Key: "newinstance"}, {Key: "ptmxmode", Value: "0666"}, {Key: "mode", Value: "0620"}}
	if !c.SingleID {
		options = append(options, mount.Option{Key: "gid", Value: ttyGroup})
	}
	pts, err := c.devDir("pts", "devpts", options...)
	if err != nil || !c.Terminal {
		return err
	}
	c.pts = pts
	return c.openTerminal()
}

// openTerminal makes the step's terminal, gives its master end to the worker and
// shows the other one as /dev/console.
func (c *container) openTerminal() error {
	master, err := openAt(c.pts, "ptmx", syscall.O_RDWR|syscall.O_NOCTTY)
	if err != nil {
		return err
	}
	defer master.Close()
	number, slave, err := unlockTerminal(int(master.Fd()))
	if err != nil {
		return err
	}
	if c.UID != 0 && !c.SingleID {
		if err := syscall.Fchown(slave, int(c.UID), -1); err != nil {
			return err
		}
	}
	m, err := mount.CloneAt(c.pts, itoa(number), false)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := c.bindFile(m, "console"); err != nil {
		return err
	}
	c.tty = slave
	return sendConsole(int(master.Fd()))
}
