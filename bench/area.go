// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userName is the plain user of the workloads that run without root.
const userName = "stackerbench"

// area is the file system in a sparse file that everything happens on, and the
// plain user. An ext4 with a journal of its own is what many machines have, and
// is not what other work has left behind.
type area struct {
	parent  string // directory of the sparse file
	dir     string // mount point
	mounted bool
	made    bool // the user was made here
	user    *account
}

type account struct {
	uid, gid uint32
	home     string
}

const (
	binDir  = "bin"  // of the programs
	homeDir = "home" // of the plain user
)

// newArea makes the area; close must be called also after an error.
func newArea(ctx context.Context, o options) (*area, error) {
	a := &area{}
	if os.Geteuid() != 0 {
		return a, errors.New("mounting a file system of its own needs root: run it with sudo")
	}
	parent, err := os.MkdirTemp(o.dir, "stackerbench-")
	if err != nil {
		return a, fmt.Errorf("make directory for the file system: %w", err)
	}
	a.parent, a.dir = parent, filepath.Join(parent, "fs")
	if err := errors.Join(os.Chmod(parent, 0o755), os.Mkdir(a.dir, 0o755)); err != nil {
		return a, fmt.Errorf("make mount point: %w", err)
	}
	if err := a.mount(ctx, int64(2<<30+14*o.scale*(1<<30))); err != nil {
		return a, err
	}
	if err := a.addUser(ctx); err != nil {
		return a, err
	}
	return a, a.install(o.stacker)
}

func (a *area) mount(ctx context.Context, size int64) error {
	img := filepath.Join(a.parent, "fs.img")
	f, err := os.Create(img)
	if err != nil {
		return fmt.Errorf("make sparse file: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make sparse file: %w", err)
	}
	// Tables that the kernel would fill in later would be work beside the measurement.
	mkfs := []string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", img}
	for _, argv := range [][]string{mkfs, {"mount", "-o", "loop", img, a.dir}} {
		if err := tool(ctx, argv...); err != nil {
			return err
		}
	}
	a.mounted = true
	return nil
}

// addUser makes the plain user; one that is there is used and left there.
func (a *area) addUser(ctx context.Context) error {
	u, err := user.Lookup(userName)
	if err != nil {
		if err := tool(ctx, "useradd", "--no-create-home", "--home-dir", filepath.Join(a.dir, homeDir), userName); err != nil {
			return err
		}
		a.made = true
		if u, err = user.Lookup(userName); err != nil {
			return fmt.Errorf("find user %s: %w", userName, err)
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("find user %s: %w", userName, err)
	}
	a.user = &account{uid: uint32(uid), gid: uint32(gid), home: filepath.Join(a.dir, homeDir)}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\n"+string(data), "\n"+userName+":") {
			return fmt.Errorf("user %s has no subordinate ids in %s: useradd should have given it some", userName, file)
		}
	}
	if err := os.Chown(a.dir, int(uid), int(gid)); err != nil {
		return fmt.Errorf("give area to %s: %w", userName, err)
	}
	return a.homes()
}

// homes makes the plain user's home directory, empty.
func (a *area) homes() error {
	for _, d := range []string{a.user.home, filepath.Join(a.user.home, "run")} {
		err := os.Mkdir(d, 0o700)
		if err = errors.Join(err, os.Chown(d, int(a.user.uid), int(a.user.gid))); err != nil {
			return fmt.Errorf("make home of %s: %w", userName, err)
		}
	}
	return nil
}

// install copies the programs to where the plain user finds them.
func (a *area) install(stacker string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if err := os.Mkdir(filepath.Join(a.dir, binDir), 0o755); err != nil {
		return fmt.Errorf("make directory for programs: %w", err)
	}
	return errors.Join(
		copyFile(filepath.Join(a.dir, binDir, "stacker"), stacker, 0o755),
		copyFile(filepath.Join(a.dir, binDir, "bench"), self, 0o755),
	)
}

func copyFile(dst, src string, mode os.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	return nil
}

// path names a file of the area.
func (a *area) path(name string) string { return filepath.Join(a.dir, name) }

// write makes a small file.
func (a *area) write(name, text string) error {
	if err := os.WriteFile(a.path(name), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// remove deletes trees and writes out what is left to write, so that the next measurement starts with a clean disk.
func (a *area) remove(names ...string) error {
	for _, n := range names {
		if err := os.RemoveAll(a.path(n)); err != nil {
			return fmt.Errorf("remove %s: %w", n, err)
		}
	}
	return a.sync()
}

func (a *area) sync() error {
	d, err := os.Open(a.dir)
	if err != nil {
		return fmt.Errorf("sync area: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync area: %w", err)
	}
	return nil
}

// empty removes all but the programs.
func (a *area) empty() error {
	list, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("empty area: %w", err)
	}
	for _, e := range list {
		if e.Name() == binDir || e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(a.path(e.Name())); err != nil {
			return fmt.Errorf("empty area: %w", err)
		}
	}
	return errors.Join(a.homes(), a.sync())
}

// close removes everything that newArea made. It runs after Ctrl-C too, so it has no context.
func (a *area) close() error {
	var errs []error
	if a.made {
		errs = append(errs, tool(context.Background(), "userdel", userName))
	}
	if a.mounted {
		if err := a.unmount(); err != nil {
			// What is mounted must not be removed by its path.
			return errors.Join(append(errs, err)...)
		}
	}
	if a.parent != "" {
		errs = append(errs, os.RemoveAll(a.parent))
	}
	return errors.Join(errs...)
}

// unmount waits for a process that was just killed to let go.
func (a *area) unmount() error {
	for wait := 10 * time.Millisecond; wait < 5*time.Second; wait *= 2 {
		err := unix.Unmount(a.dir, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", a.dir, err)
		}
		time.Sleep(wait)
	}
	if err := unix.Unmount(a.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", a.dir, err)
	}
	return nil
}

// tool runs a program that only prepares something.
func tool(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
