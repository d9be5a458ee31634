// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"errors"
	"os"
	"syscall"

	"build.stacker.dev/internal/mount"
)

const quiet = mount.NoSuid | mount.NoDev | mount.NoExec

// What of /proc and /sys is hidden: what tells about the machine and its other
// users, and what changes them. Not every kernel has all of them.
var (
	procMasked = [...]string{
		"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi",
		"timer_list", "timer_stats",
	}
	procReadOnly = [...]string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
	sysMasked    = [...]string{"dev/block", "devices/virtual/powercap", "firmware", "fs/selinux"}
)

// Hidden tells whether an entry of /proc is one that steps do not see.
func Hidden(name string) bool {
	for _, n := range procMasked {
		if n == name {
			return true
		}
	}
	return false
}

// beforeCommand is the process id before the command's, which is the same in every
// run: programs write it to files. Those below are for the threads of this process.
const beforeCommand = "9"

// openLastPid opens the file that sets the next process id, while it can still be
// written (pid_namespaces(7)). Without it the number is whatever it is.
func (c *container) openLastPid() {
	fd, err := syscall.Openat(int(c.proc.Fd()), "sys/kernel/ns_last_pid", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		c.lastPid = fd
	}
}

// setLastPid makes the next process the one of that number.
func (c *container) setLastPid() {
	if c.lastPid > 0 {
		_, _ = syscall.Write(c.lastPid, []byte(beforeCommand))
		_ = syscall.Close(c.lastPid)
	}
}

// mountProc mounts a new proc of the container's own pid namespace.
//
// The kernel refuses that where the proc around is partly covered, as it is in most
// containers: a new one would show what is covered there. Then that proc is shown, with
// its covers. It is of another pid namespace: /proc/self leads to the right process,
// but numbers are those that the processes have outside, and processes of outside
// are listed. To share the pid namespace instead would make the numbers agree, and would
// let a step's "kill -9 -1" reach all that the user runs in the container around.
func (c *container) mountProc() error {
	m, err := mount.New("proc", quiet)
	if errors.Is(err, syscall.EPERM) {
		m, err = c.outerProc()
	}
	if err != nil {
		return fail("mount /proc", err)
	}
	if err := c.attachAt(m, "proc"); err != nil {
		return err
	}
	c.proc = m
	c.openLastPid()
	if c.Privileged {
		return nil
	}
	for _, name := range procMasked {
		if err := c.mask(m, name); err != nil {
			return fail("mask /proc/"+name, err)
		}
	}
	for _, name := range procReadOnly {
		if err := readOnly(m, name); err != nil {
			return fail("protect /proc/"+name, err)
		}
	}
	return nil
}

// outerProc copies the proc around, with the mounts that cover parts of it.
func (c *container) outerProc() (*os.File, error) {
	m, err := mount.ClonePath("/proc", true)
	if err != nil {
		return nil, err
	}
	return m, mount.SetAttr(m, quiet, true)
}

// mountSys shows the machine's sysfs read-only, or that of a network namespace of
// its own, with the container's own cgroup in it.
func (c *container) mountSys() error {
	m, err := c.sysfs()
	if err != nil {
		return fail("mount /sys", err)
	}
	if err := c.attachAt(m, "sys"); err != nil {
		return err
	}
	c.sys = m
	if err := c.mountCgroup(m); err != nil {
		return fail("mount /sys/fs/cgroup", err)
	}
	if c.Privileged {
		return nil
	}
	for _, name := range sysMasked {
		if err := c.mask(m, name); err != nil {
			return fail("mask /sys/"+name, err)
		}
	}
	return c.maskThermal(m)
}

func (c *container) sysfs() (*os.File, error) {
	attr := quiet
	if !c.Privileged {
		attr |= mount.ReadOnly
	}
	if c.OwnNetwork {
		// Refused where the one that is there is partly covered.
		if m, err := mount.New("sysfs", attr); err == nil {
			return m, nil
		}
	}
	m, err := mount.ClonePath("/sys", true)
	if err != nil {
		return nil, err
	}
	return m, mount.SetAttr(m, attr, true)
}

func (c *container) mountCgroup(sys *os.File) error {
	at, err := openIn(sys, "fs/cgroup", oPath|syscall.O_DIRECTORY)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close()
	attr := quiet
	if !c.Privileged {
		attr |= mount.ReadOnly
	}
	m, err := mount.New("cgroup2", attr)
	if err != nil {
		// A kernel with only the first version: nothing of it is shown.
		return c.coverDir(at)
	}
	defer m.Close()
	return mount.Attach(m, at)
}

// maskThermal hides the throttle counters of each processor.
func (c *container) maskThermal(sys *os.File) error {
	const cpus = "devices/system/cpu"
	for i := 0; ; i++ {
		cpu := cpus + "/cpu" + itoa(i)
		// Nearly no virtual machine has them, so look at the first one only to
		// find that out.
		d, err := openIn(sys, cpu+"/thermal_throttle", oPath)
		if err == syscall.ENOENT {
			return nil
		}
		if err != nil {
			return fail("mask /sys/"+cpu, err)
		}
		err = c.coverDir(d)
		_ = d.Close()
		if err != nil {
			return fail("mask /sys/"+cpu, err)
		}
	}
}

// attachAt attaches one of the fixed mounts. An image in which its place is a
// link or a file asks to have it somewhere else, which nothing legitimate does.
func (c *container) attachAt(m *os.File, name string) error {
	at, err := openIn(c.root, name, oPath|syscall.O_DIRECTORY)
	if err == syscall.ELOOP || err == syscall.ENOTDIR {
		return fail("mount /"+name+" (it must be a directory in the image, not a link or a file)", err)
	}
	if err != nil {
		return fail("mount /"+name, err)
	}
	defer at.Close()
	return fail("mount /"+name, mount.Attach(m, at))
}

// mask covers name in a file system that is known to be what it should be.
func (c *container) mask(fs *os.File, name string) error {
	at, err := openIn(fs, name, oPath)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(at.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return c.coverDir(at)
	}
	null, err := device("null", 1, 3)
	if err != nil {
		return err
	}
	defer null.Close()
	return mount.Attach(null, at)
}

// coverDir hides a directory behind an empty one.
func (c *container) coverDir(at *os.File) error {
	if c.emptyDir == nil {
		m, err := mount.New("tmpfs", quiet|mount.ReadOnly, mount.Option{Key: "mode", Value: "555"}, mount.Option{Key: "nr_inodes", Value: "1"})
		if err != nil {
			return err
		}
		c.emptyDir = m
		return mount.Attach(m, at)
	}
	m, err := mount.Clone(c.emptyDir, false)
	if err != nil {
		return err
	}
	defer m.Close()
	return mount.Attach(m, at)
}

func readOnly(fs *os.File, name string) error {
	at, err := openIn(fs, name, oPath)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer at.Close()
	m, err := mount.Clone(at, true)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := mount.SetAttr(m, quiet|mount.ReadOnly, true); err != nil {
		return err
	}
	return mount.Attach(m, at)
}
