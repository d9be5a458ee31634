// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/binfmt"
	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/shell"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// server is the worker's side.
type server struct {
	driver    snapshot.Driver
	deep      snapshot.Driver // see choice
	choice    choice          // how driver came to be
	views     views
	session   *session
	steps     runner
	emulators binfmt.Registry
	exe       func() (*os.File, error) // this program, in a form that can be shown in steps
	singleID  bool
	bare      bool // there are no namespaces, and no mounts
	inMemory  bool // small files of steps are
	plain     bool // that memory has no attributes user.*
	drafts    drafts
	tidy      sync.WaitGroup // snapshots being discarded beside the work
	leaving   leaving

	// Directories that show this program in steps, without and with a shell.
	plainTools, shellTools func() (string, error)

	mu    sync.Mutex
	atEnd []string // directories to discard at the end
}

// discard drops a snapshot that is done with. Nobody waits for that but the end
// of the worker.
func (s *server) discard(id string) { s.discardAfter(nil, id) }

// discardAfter is discard of what is in use until gone is closed, where that is not nil.
func (s *server) discardAfter(gone <-chan struct{}, id string) {
	s.tidy.Go(func() {
		if gone != nil {
			<-gone
		}
		_ = s.driver.Discard(id) // a left-over is found by prune
	})
}

// MainOptions say how a worker is to work.
type MainOptions struct {
	SingleID bool   // only one id is mapped
	Bare     bool   // there are no namespaces
	Driver   string // of snapshots; empty: snapshot.Auto
}

// Main serves calls that come over the control socket until it closes.
func Main(ctx context.Context, control *os.File, o MainOptions) error {
	c, err := toConn(control)
	if err != nil {
		return err
	}
	// A terminal sends its signals to all of us: whether to end is the main
	// process' decision. Ignoring them would be inherited by the steps.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	// The tree area is the working directory.
	own, err := newSession()
	if err != nil {
		return err
	}
	defer own.end()
	trees := overlay.New(".")
	inMemory := !o.Bare && mountScratch() == nil
	if inMemory {
		trees = trees.WithScratch(scratchDir)
	}
	choose := choose
	if o.Bare {
		choose = chooseBare
	}
	chosen := choose(o.Driver, filepath.Join(activeDir, own.newID()), trees)
	s := &server{
		driver: chosen.driver, deep: chosen.deep, choice: chosen, session: own,
		steps: newRunner(o), singleID: o.SingleID, bare: o.Bare, inMemory: inMemory,
		plain: inMemory && unix.Setxattr(scratchDir, "user.stacker.probe", []byte("y"), 0) != nil,
	}
	own.collect(takeBack, s.discard)
	s.exe = sync.OnceValues(s.program)
	s.plainTools = sync.OnceValues(func() (string, error) { return s.toolsDir(nil) })
	s.shellTools = sync.OnceValues(func() (string, error) { return s.toolsDir(shell.Names()) })
	defer s.tidy.Wait()
	defer s.discardAll()
	defer s.steps.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		var hello struct{}
		files, err := conn{c}.receive(&hello)
		if errors.Is(err, io.EOF) {
			cancel()
			return nil
		}
		if err != nil {
			cancel()
			return err
		}
		for _, f := range files {
			call, err := toConn(f)
			if err != nil {
				return err
			}
			wg.Go(func() {
				defer call.Close()
				s.serve(ctx, conn{call})
			})
		}
	}
}

// scratchDir is where mountScratch mounts, in the tree area.
const scratchDir = "scratch"

// mountScratch mounts a file system in memory, seen by this process and its steps
// only. Without it the small files of steps lie beside their snapshots.
func mountScratch() error {
	if err := os.Mkdir(scratchDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	at, err := os.OpenFile(scratchDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	m, err := mount.New("tmpfs", mount.NoSuid|mount.NoDev, mount.Option{Key: "mode", Value: "0700"})
	if err != nil {
		return err
	}
	defer m.Close()
	return mount.Attach(m, at)
}

// discardAll drops what all steps shared.
func (s *server) discardAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.atEnd {
		s.discard(id)
	}
}

// call is one request being served.
type call struct {
	conn  conn
	files []*os.File
	mu    sync.Mutex
}

// event tells the caller something while the call goes on.
func (c *call) event(v any, files ...*os.File) {
	raw, err := json.Marshal(v)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.send(reply{Event: raw}, files...) // a caller that is gone cancels the call
}

// file returns the request's file of that number.
func (c *call) file(n int) (*os.File, error) {
	if n < 0 || n >= len(c.files) {
		return nil, fmt.Errorf("request names file %d of %d", n, len(c.files))
	}
	return c.files[n], nil
}

func (s *server) serve(ctx context.Context, k conn) {
	var r request
	files, err := k.receive(&r)
	if err != nil {
		return // the caller is gone
	}
	defer closeAll(files)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the connection
		var b [1]byte
		_, _ = k.c.Read(b[:])
		cancel()
	}()
	c := &call{conn: k, files: files}
	value, err := s.do(ctx, c, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		_ = k.send(reply{Error: toRemote(err)})
		return
	}
	raw, err := json.Marshal(value)
	if err != nil {
		_ = k.send(reply{Error: toRemote(err)})
		return
	}
	_ = k.send(reply{Value: raw})
}

func (s *server) do(ctx context.Context, c *call, r request) (any, error) {
	switch {
	case r.Unpack != nil:
		return s.unpack(ctx, c, *r.Unpack)
	case r.Apply != nil:
		return s.apply(ctx, c, *r.Apply)
	case r.Exec != nil:
		return s.exec(ctx, c, *r.Exec)
	case r.Change != nil:
		return s.change(ctx, c, *r.Change)
	case r.Pack != nil:
		return s.pack(ctx, c, *r.Pack)
	case r.ReadTar != nil:
		return nil, s.readTar(ctx, c, *r.ReadTar)
	case r.Stat != nil:
		return s.stat(*r.Stat)
	case r.Scan != nil:
		return nil, s.scan(ctx, c, *r.Scan)
	case r.Remove != nil:
		return nil, s.remove(ctx, *r.Remove)
	case r.Usage != nil:
		return s.usage(ctx, *r.Usage)
	case r.Probe != nil:
		return s.probe(ctx)
	case r.CacheMount != nil:
		return s.cacheMount(ctx, c, *r.CacheMount)
	}
	return nil, errors.New("request without content")
}
