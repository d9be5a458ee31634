// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/mount"
)

// ArgFork is the argument of the process that makes the first processes of containers: one for
// all ordinary steps of a worker. To start this program anew for each of them, and to make
// anew what is the same in all, was more than half of what a short step cost.
const ArgFork = "fork"

// forker is that process. It has a mount namespace and a cgroup namespace of its own, and is in
// the pid namespace of the worker. Its root, a file system in memory, has what steps share, and
// empty places for the mounts of a step: containers get a copy of its mount namespace, and find
// them there by name. There is nothing else in it, since a copy costs by the mount.
//
//	null, zero …  the devices of Devices
//	empty         an empty directory, to cover others with
//	sys           /sys, with its masks
//	outer         /proc as it was, without which the kernel allows no new one
//	proc dev root places
type forker struct {
	container
	lastCap uintptr  // the kernel's last capability
	dirs    []bool   // which of procMasked are directories
	scope   *os.File // landlock rules, see scope; nil: the kernel has none
}

// serveForks is the life of the process. Each message is a Step with its files, the last of
// them the socket of the container's first process. It answers with the number of that process
// (four bytes; 0: there is none), and then with ReportBegun or ReportError. A process that could
// not start the command waits for its end then. All these processes are children of the worker.
func serveForks() error {
	f := &forker{container: container{tty: -1, Step: &Step{}}}
	prepared := f.prepare()
	for {
		m, err := receiveMessage(1)
		if err == errClosed {
			return nil
		}
		if err != nil {
			return err
		}
		pid, err := 0, prepared
		if err == nil {
			pid, err = f.start(m.step, m.files)
		}
		if pid == 0 { // else start has said it
			_, _ = syscall.Write(controlFd, le32(nil, 0))
		}
		if err != nil {
			report(err)
		} else {
			_ = send(ReportBegun, nil, nil) // a worker that is gone is seen above
		}
		m.close()
	}
}

// prepare makes the root.
func (f *forker) prepare() error {
	syscall.Umask(0)
	place, err := mount.New("tmpfs", quiet, mount.Option{Key: "mode", Value: "755"}, mount.Option{Key: "nr_inodes", Value: "16"})
	if err != nil {
		return fail("mount file system for mounts", err)
	}
	f.root = place
	if err := attachHere(place); err != nil {
		return err
	}
	for _, name := range [...]string{"proc", "sys", "dev", "root", "empty", "outer"} {
		if err := syscall.Mkdirat(int(place.Fd()), name, 0o755); err != nil {
			return fail("make place for mounts", err)
		}
	}
	f.dev = place
	for _, d := range Devices() {
		if err := f.bindDevice(d.Name, d.Major, d.Minor); err != nil {
			return fail("mount /dev/"+d.Name, err)
		}
	}
	at, err := openIn(place, "empty", oPath|syscall.O_DIRECTORY)
	if err != nil {
		return fail("make place for mounts", err)
	}
	defer at.Close()
	if err := f.coverDir(at); err != nil {
		return fail("make an empty directory", err)
	}
	if err := f.mountSys(); err != nil {
		return err
	}
	outer, err := f.outerProc()
	if err == nil {
		err = f.attachAt(outer, "outer")
	}
	if err != nil {
		return fail("copy /proc", err)
	}
	if err := f.enterRoot(); err != nil {
		return err
	}
	return f.look()
}

// look finds out what the confinement of steps depends on.
func (f *forker) look() error {
	f.dirs = make([]bool, len(procMasked))
	for i, name := range procMasked {
		var st syscall.Stat_t
		f.dirs[i] = syscall.Lstat("outer/"+name, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
	}
	for {
		_, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prCapbsetRead, f.lastCap+1, 0)
		if e != 0 {
			break
		}
		f.lastCap++
	}
	abi, err := landlockABI()
	if err == nil && abi >= 6 {
		f.scope, err = newRules(scopeRules, 0, nil)
	}
	return fail("confine to own processes (landlock)", err)
}

// start starts the container of a step, and says its number to the worker. The error is why
// the command does not run.
func (f *forker) start(s *Step, files []*os.File) (int, error) {
	p, err := f.write(s, files)
	if err != nil {
		return 0, err
	}
	defer p.wipe()
	pid, fault, err := p.run()
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fault)
	if _, err := syscall.Write(controlFd, le32(nil, uint32(pid))); err != nil {
		return pid, fail("answer worker", err)
	}
	var said failed // one write to a pipe, so one read
	got, err := syscall.Read(fault, unsafe.Slice((*byte)(unsafe.Pointer(&said)), unsafe.Sizeof(said)))
	for err == syscall.EINTR {
		got, err = syscall.Read(fault, unsafe.Slice((*byte)(unsafe.Pointer(&said)), unsafe.Sizeof(said)))
	}
	switch {
	case err == nil && got == 0:
		return pid, nil // it was closed by the start of the command
	case err != nil || got != int(unsafe.Sizeof(said)):
		return pid, errMessage
	case said.call == uintptr(len(p.setup)+len(p.command)-1):
		return pid, execErrorIn(files[streams], s.Dir, p.paths[said.command], said.errno)
	}
	return pid, p.failure(said)
}
