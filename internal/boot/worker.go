// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"os"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/boot/role"
	"build.stacker.dev/internal/mount"
)

const (
	prSetName   = 15
	prSubreaper = 36 // PR_SET_CHILD_SUBREAPER
	atNofollow  = syscall.O_NOFOLLOW
	oPath       = 0x200000
	keyctlJoin  = 1 // KEYCTL_JOIN_SESSION_KEYRING
	selfExePath = "/proc/self/exe"
)

// waitForIDs is the life of a worker whose ids another program maps. The kernel
// took the capabilities away when this process was started with an id that was
// not mapped yet. The second start, as root, gives them back.
func waitForIDs() {
	var b [1]byte
	n, err := syscall.Read(role.ControlFd, b[:])
	for err == syscall.EINTR {
		n, err = syscall.Read(role.ControlFd, b[:])
	}
	if n != 1 {
		syscall.Exit(1) // the main process is gone
	}
	// Both are our own id, under the name that it has here.
	if err := syscall.Setresgid(0, 0, 0); err != nil {
		ready("become group 0 of the user namespace", err)
	}
	if err := syscall.Setresuid(0, 0, 0); err != nil {
		ready("become user 0 of the user namespace", err)
	}
	os.Args[0] = role.WorkerName
	ready("start worker", syscall.Exec(selfExePath, os.Args, nil))
}

// enterWorker makes this process and its mount namespace what a worker needs. It
// gives the step that failed with the error.
func enterWorker(tree bool) (string, error) {
	setName(role.WorkerName)
	if err := prctl(syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL)); err != nil {
		return "ask for the end with the main process", err
	}
	syscall.Umask(0)
	// Only this thread and its descendants leave the keyring; steps do it again.
	_, _, _ = syscall.RawSyscall(syscall.SYS_KEYCTL, keyctlJoin, 0, 0)
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return "make mounts private (is a security module, such as AppArmor, in the way?)", err
	}
	if tree {
		if err := attachTree(); err != nil {
			return "mount the tree area (its file system must keep owners other than root: else choose another one with --state)", err
		}
	}
	// Refused in a container whose own /proc is partly covered. The one that is
	// there serves the worker too.
	_ = syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
	return "", nil
}

// enterBare makes this process what a worker without namespaces needs. It is not killed with
// the main process: it ends when its socket does, and ends its steps before that. What a
// step started and left behind becomes its child, to be killed by it.
//
// single: only the own id is used, also by root.
func enterBare(single bool) (string, error) {
	setName(role.WorkerName)
	if err := prctl(prSubreaper, 1); err != nil {
		return "become the parent of what steps leave behind", err
	}
	syscall.Umask(0)
	if single && os.Geteuid() == 0 {
		if err := dropRoot(); err != nil {
			return "give up what is left of root's capabilities", err
		}
	}
	return "", nil
}

// dropRoot makes an ordinary user of this process, who has the number 0: all threads, and all that
// it starts, have no capabilities and get none.
func dropRoot() error {
	const setNoNewPrivs = 38
	if _, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	hdr := struct {
		version uint32
		pid     int32
	}{version: 0x20080522}
	var none [6]uint32 // effective, permitted, inheritable; twice
	if _, _, e := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none)), 0); e != 0 {
		return e
	}
	return nil
}

// attachTree makes the mount that the main process gave the working directory. A
// descriptor of another mount namespace would not do: nothing that is reached
// through it can be mounted here. Where it is attached does not matter, since
// only this process's mount namespace has it there.
func attachTree() error {
	tree := os.NewFile(role.TreeFd, "trees")
	defer tree.Close()
	err := error(syscall.ENOENT)
	for _, dir := range [...]string{"/mnt", "/media", "/srv", "/opt", "/tmp", "/run", "/var"} {
		var at *os.File
		at, err = os.OpenFile(dir, oPath|syscall.O_DIRECTORY|atNofollow, 0)
		if err != nil {
			continue
		}
		err = mount.Attach(tree, at)
		_ = at.Close()
		if err == nil {
			return syscall.Fchdir(int(tree.Fd()))
		}
	}
	return err
}
