// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Before Linux 6.7 the layers of an overlay are one option, which fsconfig(2) cuts
// at 255 bytes. mount(2) takes a page of options, but wants a place in the tree of
// mounts. It gets one in a mount namespace that only one thread is in, and only for
// this: so the overlay is never seen by anybody, nothing has to be locked, and
// nothing stays when the program is killed.

const (
	mountOverlay = "mount overlay" // the Op of its errors
	place        = "/proc"         // where the overlay is mounted: every machine has that
	descriptors  = "/proc/self/fd" // names the layers in a few bytes each

	// maxOptions bounds the options: mount(2) reads a page, and ends it with a zero.
	// 500 layers are 500 numbers of at most 7 digits, so these fit.
	maxOptions = 4095

	oPath = 0x200000 // O_PATH of open(2)
)

// appends tells if the kernel takes the layers of an overlay one by one (Linux 6.7).
// Up to 6.4 any option is taken, and looked at when the file system is made.
var appends = sync.OnceValue(func() bool {
	fs, err := open("overlay")
	if err != nil {
		return true // what is wrong is not this
	}
	defer fs.close()
	return fs.set(Option{"no-such-option", ""}) != nil && fs.set(Option{"lowerdir+", "/"}) == nil
})

// mountOld mounts the overlay by mount(2).
func (o OverlayOptions) mountOld() (m *os.File, err error) {
	err = apart(func() error {
		m, err = o.mountHere()
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// apart runs f in a thread with a mount namespace and a working directory of its
// own, which end with it.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread is not to be used for anything else
		if syscall.Gettid() == syscall.Getpid() {
			// The runtime keeps the first thread for ever, and /proc/self shows what that
			// has. While it is held here, another one takes the work.
			defer runtime.UnlockOSThread()
			done <- apart(f)
			return
		}
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			done <- failed("unshare mounts", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// mountHere mounts the overlay in the mount namespace of this thread, whose working
// directory it changes. The layers must be opened there: the kernel refuses those of
// another namespace.
func (o OverlayOptions) mountHere() (*os.File, error) {
	options, closeAll, err := o.openAll()
	defer closeAll()
	if err != nil {
		return nil, err
	}
	if err := syscall.Mount("", place, "", syscall.MS_PRIVATE, ""); err != nil {
		return nil, failed("make "+place+" private", err)
	}
	if err := syscall.Chdir(descriptors); err != nil {
		return nil, failed("chdir "+descriptors, err)
	}
	var flags uintptr
	if o.Upper == "" {
		flags = syscall.MS_RDONLY
	}
	if err := syscall.Mount("overlay", place, "overlay", flags, options); err != nil {
		return nil, failed(mountOverlay, err)
	}
	m, err := ClonePath(place, false)
	// At once: the namespace ends some time after the thread, and until then it would
	// keep the upper directory in use.
	if uerr := syscall.Unmount(place, syscall.MNT_DETACH); uerr != nil && err == nil {
		_ = m.Close()
		return nil, failed("unmount "+place, uerr)
	}
	return m, err
}

// openAll opens the directories of the overlay and gives the options with their
// names relative to descriptors. closeAll is never nil.
func (o OverlayOptions) openAll() (options string, closeAll func(), err error) {
	var fds []int
	closeAll = func() {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}
	name := func(dir string) (string, error) {
		fd, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return "", failed("open layer "+dir, err)
		}
		fds = append(fds, fd)
		return strconv.Itoa(fd), nil
	}
	lowers := make([]string, len(o.Lowers))
	for i, dir := range o.Lowers {
		// The kernel wants the top one first.
		if lowers[len(lowers)-1-i], err = name(dir); err != nil {
			return "", closeAll, err
		}
	}
	options = "userxattr"
	if len(lowers) > 0 {
		options += ",lowerdir=" + strings.Join(lowers, ":")
	}
	if o.Upper != "" {
		upper, err := name(o.Upper)
		if err != nil {
			return "", closeAll, err
		}
		work, err := name(o.Work)
		if err != nil {
			return "", closeAll, err
		}
		options += ",upperdir=" + upper + ",workdir=" + work + ",volatile"
	}
	if len(options) > maxOptions {
		return "", closeAll, failed(mountOverlay, syscall.E2BIG)
	}
	return options, closeAll, nil
}

// failed makes an Error of what package syscall gave.
func failed(op string, err error) error {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return err
	}
	return &Error{Op: op, Err: errno}
}
