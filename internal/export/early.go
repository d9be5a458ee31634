// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/transfer"
)

// Early is an Output that can begin before an image is complete.
type Early interface {
	// Early takes the layers that an image will begin with, and returns at once. They
	// are packed and sent while the build goes on; where that fails in the end,
	// nothing names them. in, which may be nil, is a layout that gets the image, too.
	// What goes wrong is told by Add, which tries again.
	Early(names []string, p Product, in *Layout)
}

// earlyUploads is how many layers are sent at the same time while a build goes on.
const earlyUploads = 4

// uploads sends layers to repositories while a build goes on. Its first fault ends that,
// with a warning: the upload of the whole image meets it again, if it is still there.
type uploads struct {
	e        *Exporter
	insecure bool
	ctx      context.Context //nolint:containedctx // that of the output, for what goes on in the background
	cancel   context.CancelFunc
	slots    chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	begun map[string]bool // layers, by repositories and chain
	sent  map[string]bool // blobs, by repository and digest; also those on their way
	dead  bool            // an upload failed: nothing is begun any more, and nothing is sure
	count int             // of uploads without a name
}

func (e *Exporter) newUploads(ctx context.Context, insecure bool) *uploads {
	u := &uploads{e: e, insecure: insecure, slots: make(chan struct{}, earlyUploads), begun: map[string]bool{}, sent: map[string]bool{}}
	u.ctx, u.cancel = context.WithCancel(ctx)
	return u
}

// stop ends what is under way.
func (u *uploads) stop() {
	u.cancel()
	u.wg.Wait()
}

// layers begins to pack and to send the layers of a product that were not begun yet.
func (u *uploads) layers(p Product, v *virtual, to func(cache.Layer) transfer.Destination, s Spec) {
	for i, l := range p.Layers {
		name := v.names + " " + cache.Chain(p.Layers[:i+1])
		u.mu.Lock()
		skip := u.begun[name] || u.dead
		u.begun[name] = true
		u.mu.Unlock()
		if skip {
			continue
		}
		u.wg.Go(func() {
			d, _, err := u.e.product(u.ctx, p, i, to(l), s)
			if err != nil {
				return
			}
			for _, r := range v.repositories {
				u.put(p.Name, r, d, v)
			}
		})
	}
}

// put sends a blob that is complete, unless it was sent while it was packed.
func (u *uploads) put(stage string, repo reference.Reference, d ocispec.Descriptor, v *virtual) {
	if !u.take(repo, d.Digest) {
		return
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-u.ctx.Done():
		u.fail(repo, u.ctx.Err())
		return
	}
	c := u.e.Registry(u.insecure)
	has, err := c.HasBlob(u.ctx, repo, d)
	if err == nil && !has {
		vertex := solve.Vertex{ID: "push " + string(d.Digest) + " " + repo.Name(), Stage: stage, Name: pushLayer(d, repo)}
		err = u.e.Report(u.ctx, vertex, func() error {
			open := func(ctx context.Context) (io.ReadCloser, error) { return v.Open(ctx, d) }
			return c.UploadBlob(u.ctx, repo, d, open, registry.BlobOptions{MountFrom: v.mounts(d, repo), Progress: u.e.progress(vertex, d)})
		})
	}
	if err != nil {
		u.fail(repo, err)
	}
}

// take tells whether the caller is the first to send a blob to a repository.
func (u *uploads) take(repo reference.Reference, d digest.Digest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	name := repo.Name() + " " + string(d)
	first := !u.sent[name] && !u.dead
	u.sent[name] = u.sent[name] || first
	return first
}

// fail notes that an upload failed, and warns once: who waits for a long build may
// rather see to it now.
func (u *uploads) fail(repo reference.Reference, err error) {
	u.mu.Lock()
	first := !u.dead
	u.dead = true
	u.mu.Unlock()
	if first && u.ctx.Err() == nil {
		u.e.tell(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: u.e.Now(), Text: fmt.Sprintf(
			"push to %s while building: %v: it is tried again when the build is done", repo.Name(), err)})
	}
}

// ended tells whether an upload failed.
func (u *uploads) ended() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dead
}

// nextID begins the ID of an upload whose digest is not known yet.
func (u *uploads) nextID() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count++
	return "push " + strconv.Itoa(u.count) + " "
}

// has tells whether a blob was sent to a repository or found there; asked when nothing
// is under way.
func (u *uploads) has(repo reference.Reference, d digest.Digest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent[repo.Name()+" "+string(d)] && !u.dead
}

// everywhere asks whether all repositories have a blob already, so that it need not be
// made. A registry that cannot be asked has not.
func (u *uploads) everywhere(ctx context.Context, d ocispec.Descriptor, repos []reference.Reference) bool {
	for _, r := range repos {
		if has, err := u.e.Registry(u.insecure).HasBlob(ctx, r, d); err != nil || !has {
			return false
		}
	}
	for _, r := range repos {
		u.take(r, d.Digest)
	}
	return len(repos) > 0
}
