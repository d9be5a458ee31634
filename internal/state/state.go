// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package state owns the state directory: one per user, shared by all projects
// and by any number of processes.
//
// It makes the directory, refuses one that others could have written to, hands
// out the stores inside it, starts the worker at the first need, and makes what
// was built durable. Lock order: the state's shared lock (held while a build
// runs) before a key's lock; prune takes the state's lock exclusively.
package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/lockfile"
	"build.stacker.dev/internal/snapshot/overlay"
	"build.stacker.dev/internal/userns"
	"build.stacker.dev/internal/worker"
)

// State is an open state directory.
type State struct {
	Dir   string
	Cache *cache.Store
	Blobs *blob.Store
	// Images are the named images; their blobs are in Blobs.
	Images *images.Store
	trees  *os.File // the tree area

	plan   func() (userns.Plan, error)
	driver string
	unlock func()

	mu     sync.Mutex
	worker *worker.Client
	werr   error
	marker *marker
}

// Options are what opening needs.
type Options struct {
	Dir string
	// Plan finds out how the worker gets its ids; it is called at the first need.
	Plan func() (userns.Plan, error)
	// Driver names the snapshot driver: see worker.Options.
	Driver string
	// OnWait is called when another process keeps the state locked (prune).
	OnWait func()
}

// Open opens the state directory, making it where it is missing.
func Open(ctx context.Context, o Options) (*State, error) {
	if err := prepare(o.Dir); err != nil {
		return nil, err
	}
	unlock, err := lockfile.LockShared(ctx, filepath.Join(o.Dir, lockName), o.OnWait)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	s := &State{Dir: o.Dir, plan: o.Plan, driver: o.Driver, unlock: unlock}
	if err := s.open(); err != nil {
		unlock()
		return nil, err
	}
	if err := s.distrust(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *State) open() (err error) {
	if s.Cache, err = cache.Open(filepath.Join(s.Dir, cacheDir)); err != nil {
		return err
	}
	if s.Blobs, err = blob.Create(filepath.Join(s.Dir, blobsDir), blob.Options{}); err != nil {
		return err
	}
	s.Images = images.Open(filepath.Join(s.Dir, imagesDir), s.Blobs)
	s.trees, err = os.OpenFile(filepath.Join(s.Dir, treesDir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	return nil
}

// Path gives the place of a part of the state that another package owns.
func (s *State) Path(part string) string { return filepath.Join(s.Dir, part) }

// Written remembers a blob of the state as it is now, just written: nobody has to read it
// to know that it is whole. Blobs of a few pages are read all the same.
func (s *State) Written(d ocispec.Descriptor, now time.Time) error {
	look, err := s.Blobs.Look(d)
	if err != nil {
		return err
	}
	return s.Cache.SetSeen(s.BlobPlace(d.Digest), look, now)
}

// BlobPlace names a blob of the state for Cache.Seen.
func (s *State) BlobPlace(d digest.Digest) string {
	return filepath.Join(s.Dir, blobsDir) + " " + string(d)
}

// HasTree tells whether a tree was committed. The name comes from package snapshot.
func (s *State) HasTree(tree string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(s.trees.Fd()), tree, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Worker returns the worker, starting it at the first call.
func (s *State) Worker(ctx context.Context) (*worker.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker != nil || s.werr != nil {
		return s.worker, s.werr
	}
	s.worker, s.werr = s.startWorker(ctx)
	return s.worker, s.werr
}

func (s *State) startWorker(ctx context.Context) (*worker.Client, error) {
	plan, err := s.plan()
	if err != nil {
		return nil, err
	}
	if err := s.checkLevel(plan.Level); err != nil {
		return nil, err
	}
	if err := s.prepareTrees(plan); err != nil {
		return nil, err
	}
	if s.marker, err = s.mark(); err != nil {
		return nil, err
	}
	return worker.Start(ctx, worker.Options{Plan: plan, Trees: s.trees, Driver: s.driver})
}

// prepareTrees gives the tree area to the root of the worker's user namespace.
func (s *State) prepareTrees(plan userns.Plan) error {
	base := filepath.Join(s.Dir, treesDir)
	uid, gid := plan.RootIDs()
	for _, d := range append([]string{"."}, overlay.Dirs()...) {
		p := filepath.Join(base, d)
		if err := os.Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("prepare tree area: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("prepare tree area: %w", err)
		}
		if int(st.Uid) == uid && int(st.Gid) == gid {
			continue
		}
		if d == "." && st.Uid != uint32(os.Geteuid()) {
			return fmt.Errorf("the trees in %s belong to user id %d, but this build would use %d: the subordinate ids changed; "+
				"put them back in /etc/subuid, or remove the directory (as root) to start afresh", base, st.Uid, uid)
		}
		if err := unix.Lchown(p, uid, gid); err != nil {
			return fmt.Errorf("prepare tree area: %w", err)
		}
	}
	if plan.ByPath {
		return s.letThrough(gid)
	}
	return nil
}

// letThrough lets the worker reach the tree area by its path: nobody else is in its
// group, whose id is of a range that belongs to no user.
func (s *State) letThrough(gid int) error {
	if err := os.Lchown(s.Dir, -1, gid); err != nil {
		return fmt.Errorf("prepare state directory: %w", err)
	}
	if err := os.Chmod(s.Dir, 0o710); err != nil {
		return fmt.Errorf("prepare state directory: %w", err)
	}
	return nil
}

// Close ends the worker and releases the state. What was made and not flushed
// by Sync is distrusted after a power cut.
func (s *State) Close() {
	s.mu.Lock()
	w := s.worker
	s.worker, s.werr = nil, errors.New("the state directory was closed")
	s.mu.Unlock()
	if w != nil {
		_ = w.Close() // it has nothing to say any more
	}
	if s.marker != nil {
		s.marker.release()
	}
	if s.trees != nil {
		_ = s.trees.Close()
	}
	s.unlock()
}
