// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers and bits of linux/landlock.h.
const (
	landlockCreateRulesetVersion = 1
	landlockScopeAbstractUnix    = 1
	landlockScopeSignal          = 2
	landlockRulePathBeneath      = 1
)

// landlockRights are the rights on files that each version of the interface knows: version n
// those below the bit n-1 of the list.
var landlockRights = [...]uint{0, 13, 14, 15, 15, 16}

type landlockRuleset struct{ fs, net, scoped uint64 }

// landlockABI gives the version of the interface; 0: there is none.
func landlockABI() (int, error) {
	abi, _, e := syscall.RawSyscall(sysLandlockCreateRuleset, 0, 0, landlockCreateRulesetVersion)
	if e == syscall.ENOSYS || e == syscall.EOPNOTSUPP || e == syscall.EPERM {
		return 0, nil
	}
	return int(abi), errnoErr(0, 0, e)
}

// scopeRules are what scope forbids.
var scopeRules = landlockRuleset{scoped: landlockScopeAbstractUnix | landlockScopeSignal}

// scope keeps the command from the abstract sockets and the processes of others.
// Kernels before 6.12 cannot.
func scope() error {
	abi, err := landlockABI()
	if err != nil || abi < 6 {
		return err
	}
	return landlock(scopeRules, nil)
}

// confineFiles keeps the command to the files below root, and to its own processes and sockets
// as scope does: as far as this kernel can. What it says about files is about opening,
// making, removing and executing them; chmod(2), chown(2) and stat(2) it leaves to the root
// directory of the process.
func confineFiles(root *os.File) error {
	abi, err := landlockABI()
	if err != nil || abi < 2 {
		return err // version 1 forbids to move files from one directory to another
	}
	r := landlockRuleset{fs: 1<<landlockRights[min(abi, len(landlockRights)-1)] - 1}
	if abi >= 6 {
		r.scoped = landlockScopeAbstractUnix | landlockScopeSignal
	}
	return landlock(r, root)
}

// landlock takes from this thread what r names, but for the files below root.
func landlock(r landlockRuleset, root *os.File) error {
	var below []int
	if root != nil {
		below = []int{int(root.Fd())}
	}
	rules, err := newRules(r, r.fs, below)
	if err != nil {
		return err
	}
	if err := restrict(rules); err != nil {
		return err
	}
	return rules.Close()
}

// newRules makes a ruleset: what r names is forbidden, but for rights on what lies below the
// open files.
func newRules(r landlockRuleset, rights uint64, below []int) (*os.File, error) {
	size := unsafe.Sizeof(r)
	if r.scoped == 0 {
		size = unsafe.Sizeof(r.fs) // all that the first version has
	}
	fd, _, e := syscall.RawSyscall(sysLandlockCreateRuleset, uintptr(unsafe.Pointer(&r)), size, 0)
	if e != 0 {
		return nil, e
	}
	f := os.NewFile(fd, "landlock rules")
	for _, b := range below {
		// struct landlock_path_beneath_attr, which is packed.
		var rule [12]byte
		*(*uint64)(unsafe.Pointer(&rule)) = rights
		*(*int32)(unsafe.Pointer(&rule[8])) = int32(b)
		_, _, e = syscall.RawSyscall6(sysLandlockAddRule, fd, landlockRulePathBeneath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if e != 0 {
			_ = f.Close() // nothing was written
			return nil, e
		}
	}
	return f, nil
}

// restrict takes from this thread what the rules forbid.
func restrict(rules *os.File) error {
	return errnoErr(syscall.RawSyscall(sysLandlockRestrictSelf, rules.Fd(), 0, 0))
}

// RunRules makes the rules for a step whose calls for files are answered: it can run programs
// below the open files, which includes to read there, and open nothing else; its processes and
// abstract sockets are its own as with scope. nil: this kernel has no landlock.
func RunRules(below []int) (*os.File, error) {
	const execute, readFile = 1 << 0, 1 << 2
	abi, err := landlockABI()
	if err != nil || abi < 1 {
		return nil, err
	}
	r := landlockRuleset{fs: 1<<landlockRights[min(abi, len(landlockRights)-1)] - 1}
	if abi >= 6 {
		r.scoped = landlockScopeAbstractUnix | landlockScopeSignal
	}
	return newRules(r, execute|readFile, below)
}
