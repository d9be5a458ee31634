// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package fuse is the snapshot driver that lets the program fuse-overlayfs stack
// trees, where the kernel refuses overlays and a copy of the base for each step is
// too dear. It is taken only where the user asks for it: each access to a file goes
// through another process.
//
// Trees are those of package overlay. The driver mounts, unlike others: what it
// mounts lives and dies with a process of its own.
package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// Driver keeps its trees below one directory. It implements snapshot.Driver.
type Driver struct {
	*overlay.Driver // trees, and the directories of active snapshots

	mu     sync.Mutex
	active map[string]*active
}

// active is a mount and the process that serves it.
type active struct {
	at    string
	stop  func(os.Signal)
	ended chan struct{} // closed when it is gone
	said  bytes.Buffer  // what it printed; to be read when it is gone
	made  layer.Notes   // what Begin was told of
}

var _ snapshot.Driver = (*Driver)(nil)

// New returns a driver that keeps its trees in those of another one.
func New(trees *overlay.Driver) *Driver {
	return &Driver{Driver: trees, active: map[string]*active{}}
}

// Name implements snapshot.Driver.
func (d *Driver) Name() string { return snapshot.Fuse }

// program finds fuse-overlayfs. A worker has no PATH of its own.
func program() (string, error) {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, "fuse-overlayfs")); err == nil {
			return p, nil
		}
	}
	return "", errors.New("the program fuse-overlayfs is not installed (package fuse-overlayfs)")
}

// Probe tries in the directory dir what the driver needs.
func Probe(dir string) error {
	if _, err := program(); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) { // root of the machine is nobody here
		return fmt.Errorf("open /dev/fuse: %w: it must be open to everybody, as distributions have it (chmod 666 /dev/fuse)", err)
	}
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	_ = unix.Close(fd)
	// fuse-overlayfs does not know the second form of whiteouts, which trees have
	// where the first cannot be made.
	if err := unix.Mknod(filepath.Join(dir, "fuse-whiteout"), unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make a whiteout: %w", err)
	}
	return nil
}

// Prepare implements snapshot.Driver.
func (d *Driver) Prepare(ctx context.Context, id string, lower []string) (snapshot.Active, error) {
	a, err := d.Driver.Prepare(ctx, id, lower)
	if err != nil {
		return a, err
	}
	a.Root = filepath.Join(filepath.Dir(a.Upper), "root")
	if err := os.Mkdir(a.Root, 0o755); err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	apart, err := d.apart(ctx, a)
	if err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	m, err := serve(ctx, a, apart)
	if err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active[id] = m
	return a, nil
}

// apart makes a directory, to lie over the trees, with the files that have several
// names there as files of their own. fuse-overlayfs takes such names for each other:
// what is written to one can end up in another (seen with 1.10).
func (d *Driver) apart(ctx context.Context, a snapshot.Active) (string, error) {
	dir := filepath.Join(filepath.Dir(a.Upper), "apart")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, layer.Flatten(ctx, a.Lowers, dir, layer.FlattenOptions{Apart: true})
}

// serve starts fuse-overlayfs and waits until its mount is there.
func serve(ctx context.Context, a snapshot.Active, top string) (*active, error) {
	name, err := program()
	if err != nil {
		return nil, err
	}
	m := &active{at: a.Root, ended: make(chan struct{})}
	cmd := exec.Command(name, "-f", "-o", options(a, top), a.Root)
	cmd.Stdout, cmd.Stderr = &m.said, &m.said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start fuse-overlayfs: %w", err)
	}
	m.stop = func(s os.Signal) { _ = cmd.Process.Signal(s) } // else it has ended
	go func() {
		_ = cmd.Wait() // that the mount is missing is what counts
		close(m.ended)
	}()
	if err := m.wait(ctx); err != nil {
		m.end()
		return nil, err
	}
	return m, nil
}

// options are those of fuse-overlayfs(1). Lower directories are given with the
// topmost first. Their names are of this program's making: they need no escapes.
func options(a snapshot.Active, top string) string {
	lowers := append([]string{top}, a.Lowers...)
	slices.Reverse(lowers[1:])
	return "fsync=0,upperdir=" + a.Upper + ",workdir=" + a.Work + ",lowerdir=" + strings.Join(lowers, ":")
}

// mountLimit is how long fuse-overlayfs may take to mount. It opens each layer.
const mountLimit = 20 * time.Second

// wait returns when the mount is there.
func (m *active) wait(ctx context.Context) error {
	limit := time.NewTimer(mountLimit)
	defer limit.Stop()
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		var st unix.Statfs_t
		if err := unix.Statfs(m.at, &st); err == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.ended:
			return fmt.Errorf("fuse-overlayfs ended: %s", strings.TrimSpace(m.said.String()))
		case <-limit.C:
			return fmt.Errorf("fuse-overlayfs did not mount within %s", mountLimit)
		case <-time.After(pause):
		}
	}
}

// end takes the mount away, whatever uses it.
func (m *active) end() {
	_ = unix.Unmount(m.at, unix.MNT_DETACH) // else it was not mounted
	m.stop(os.Kill)
	<-m.ended
}

// Begin implements snapshot.Driver.
func (d *Driver) Begin(_ context.Context, a snapshot.Active, touched []string) error {
	m, err := d.of(a.ID)
	if err != nil {
		return fmt.Errorf("begin step: %w", err)
	}
	if m.made, err = layer.Note(a.Upper, touched); err == nil {
		err = layer.Settle(filepath.Dir(a.Root))
	}
	if err != nil {
		return fmt.Errorf("begin step: %w", err)
	}
	return nil
}

func (d *Driver) of(id string) (*active, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.active[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("snapshot %s is not active", id)
}

// Capture implements snapshot.Driver.
func (d *Driver) Capture(ctx context.Context, a snapshot.Active) error {
	m, err := d.of(a.ID)
	if err != nil {
		return fmt.Errorf("capture changes: %w", err)
	}
	if err := m.finish(ctx); err != nil {
		return fmt.Errorf("capture changes: %w", err)
	}
	return layer.FromFuse(ctx, a.Upper, m.made)
}

// finish ends the process when all is in its upper directory. Unmounting does not:
// mount namespaces that were made meanwhile have the mount too.
func (m *active) finish(ctx context.Context) error {
	root, err := os.Open(m.at)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(root.Fd()))
	_ = root.Close() // a directory
	if err != nil {
		return fmt.Errorf("write what the kernel holds back: %w", err)
	}
	if err := unix.Unmount(m.at, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	m.stop(unix.SIGTERM)
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Commit implements snapshot.Driver.
func (d *Driver) Commit(a snapshot.Active, tree string) error {
	if err := d.Adopt(a.Upper, tree); err != nil {
		return err
	}
	return d.Discard(a.ID)
}

// Discard implements snapshot.Driver.
func (d *Driver) Discard(id string) error {
	d.mu.Lock()
	m := d.active[id]
	delete(d.active, id)
	d.mu.Unlock()
	if m != nil {
		m.end()
	}
	return d.Driver.Discard(id)
}
