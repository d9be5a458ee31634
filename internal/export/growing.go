// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
)

// follower uploads blobs while they are made: what the packer has written to a file is
// read behind it. The file has the bytes for another try, and stays what it was to be.
type follower struct {
	uploads      *uploads
	repositories []reference.Reference
}

// follow begins to upload what is written to a file from its beginning to its end. end
// must be called with what it has become, and does not wait for the uploads. Where too
// many are under way, nothing is begun: the blob goes up when it is complete.
func (f *follower) follow(file *os.File) (end func(ocispec.Descriptor, error)) {
	u := f.uploads
	nobody := func(ocispec.Descriptor, error) {}
	if u.ended() {
		return nobody
	}
	g, err := newGrowing(file)
	if err != nil {
		return nobody
	}
	var to []reference.Reference
	for _, r := range f.repositories {
		select {
		case u.slots <- struct{}{}:
			to = append(to, r)
		default:
		}
	}
	var all sync.WaitGroup
	for _, r := range to {
		all.Add(1)
		u.wg.Go(func() {
			defer all.Done()
			defer func() { <-u.slots }()
			f.upload(r, g)
		})
	}
	u.wg.Go(func() {
		all.Wait()
		g.close()
	})
	return func(d ocispec.Descriptor, err error) {
		if err == nil {
			for _, r := range to {
				u.take(r, d.Digest)
			}
		}
		g.end(d, err)
	}
}

// upload sends one blob to one repository. It is told of when the first byte goes up:
// what is small turns out to be there, or is packed by then.
func (f *follower) upload(repo reference.Reference, g *growing) {
	u := f.uploads
	v := solve.Vertex{ID: u.nextID() + repo.Name()}
	var d ocispec.Descriptor
	start := u.e.Now()
	seen := &opened{growing: g, first: sync.OnceFunc(func() {
		v.Name = "push layer to " + repo.Name() + " while it is packed"
		if g.known() {
			d, v.Name = g.desc, pushLayer(g.desc, repo)
		}
		start = u.e.Now()
		u.e.tell(solve.Event{Kind: solve.Started, Vertex: v, Time: start})
	})}
	err := u.e.Registry(u.insecure).PutGrowing(u.ctx, repo, seen, func(done int64) { u.e.progress(v, d)(done) })
	if v.Name != "" {
		u.e.tell(u.e.ended(u.ctx, v, start, err))
	}
	if err != nil && g.failed() == nil { // else the build tells
		u.fail(repo, err)
	}
}

// pushLayer is what people call the upload of a layer.
func pushLayer(d ocispec.Descriptor, to reference.Reference) string {
	return "push layer " + d.Digest.Encoded()[:12] + " to " + to.Name()
}

// opened tells when its content is read first.
type opened struct {
	*growing
	first func()
}

// Open implements registry.Growing.
func (o *opened) Open(ctx context.Context) (io.ReadCloser, error) {
	o.first()
	return o.growing.Open(ctx)
}

// growing is a file that a blob is written to. It implements registry.Growing.
type growing struct {
	file *os.File // a descriptor of its own: the writer closes its
	done chan struct{}
	desc ocispec.Descriptor // when done
	err  error
}

var _ registry.Growing = (*growing)(nil)

func newGrowing(file *os.File) (*growing, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("follow blob: %w", err)
	}
	return &growing{file: os.NewFile(uintptr(fd), "growing blob"), done: make(chan struct{})}, nil
}

// end tells what has become of the file.
func (g *growing) end(d ocispec.Descriptor, err error) {
	g.desc, g.err = d, err
	close(g.done)
}

// known tells whether the blob is complete.
func (g *growing) known() bool {
	select {
	case <-g.done:
		return g.err == nil
	default:
		return false
	}
}

// failed is why the blob was not made; nil where it was or still is.
func (g *growing) failed() error {
	select {
	case <-g.done:
		return g.err
	default:
		return nil
	}
}

// close waits for the end, so that the file is not closed before its writer is through.
func (g *growing) close() {
	<-g.done
	_ = g.file.Close()
}

// growthPoll is how often a file is looked at that another process writes.
const growthPoll = 20 * time.Millisecond

// More implements registry.Growing.
func (g *growing) More(ctx context.Context, n int64) (int64, *ocispec.Descriptor, error) {
	tick := time.NewTicker(growthPoll)
	defer tick.Stop()
	for {
		info, err := g.file.Stat()
		if err != nil {
			return 0, nil, fmt.Errorf("follow blob: %w", err)
		}
		select {
		case <-g.done:
			if g.err != nil {
				return 0, nil, g.err
			}
			return g.desc.Size, &g.desc, nil
		default:
		}
		if info.Size() >= n {
			return info.Size(), nil, nil
		}
		select {
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		case <-g.done:
		case <-tick.C:
		}
	}
}

// Open implements registry.Growing: with an offset that nobody else moves.
func (g *growing) Open(context.Context) (io.ReadCloser, error) {
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(g.file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("follow blob: %w", err)
	}
	return f, nil
}
