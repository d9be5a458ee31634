// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// draft makes the blob of a layer of actions, and no tree.
func (s *server) draft(ctx context.Context, c *call, r ChangeRequest, inputs map[int]*fileop.Tree) (out ChangeReply, err error) {
	if r.Draft.Digest {
		return s.draftDigest(ctx, r, inputs)
	}
	f, err := c.file(r.Draft.Out)
	if err != nil {
		return out, err
	}
	d, err := fileop.NewDraft(fileop.DraftOptions{
		Lower: s.paths(r.Lower), Under: s.drafts.get(r.Draft.Under), Now: time.Unix(0, r.Draft.Now), Diff: diffOptions(r.Clamp, 0, false),
	})
	if err != nil {
		return out, err
	}
	err = fileop.Do(ctx, fileop.Options{Draft: d, Inputs: inputs, SingleID: s.singleID}, r.Actions)
	if err == nil {
		out, err = writeDraft(ctx, d, f, r)
	}
	if err != nil {
		d.Close()
	}
	if errors.Is(err, fileop.ErrUndecided) {
		return ChangeReply{Undecided: true}, nil
	}
	if err == nil {
		s.drafts.put(snapshot.Chain(r.Chain, string(out.DiffID)), d)
	}
	return out, err
}

// draftDigest computes the digest of a layer of actions.
func (s *server) draftDigest(ctx context.Context, r ChangeRequest, inputs map[int]*fileop.Tree) (out ChangeReply, err error) {
	d, err := fileop.NewDraft(fileop.DraftOptions{Lower: s.paths(r.Lower), Now: time.Unix(0, r.Draft.Now), Diff: diffOptions(r.Clamp, 0, false)})
	if err != nil {
		return out, err
	}
	defer d.Close()
	err = fileop.Do(ctx, fileop.Options{Draft: d, Inputs: inputs, SingleID: s.singleID}, r.Actions)
	if err == nil {
		res, withRoot, werr := d.Archive(ctx, nil)
		out.ApplyReply, err = ApplyReply{DiffID: res.DiffID, Size: res.Size, WithRoot: withRoot}, werr
	}
	if errors.Is(err, fileop.ErrUndecided) {
		return ChangeReply{Undecided: true}, nil
	}
	return out, err
}

// drafts are those that were written, by their chains: the next one is often on top of
// one, and need not look at its blob.
type drafts struct {
	mu      sync.Mutex
	byChain map[string]*fileop.Draft
}

func (x *drafts) get(chain string) *fileop.Draft {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byChain[chain]
}

func (x *drafts) put(chain string, d *fileop.Draft) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byChain == nil {
		x.byChain = map[string]*fileop.Draft{}
	}
	x.byChain[chain] = d
}

// lay makes the tree of a layer of actions, without a mounted root.
func (s *server) lay(ctx context.Context, r ChangeRequest, inputs map[int]*fileop.Tree) (out ChangeReply, err error) {
	d, err := fileop.NewDraft(fileop.DraftOptions{Lower: s.paths(r.Lower), Now: time.Now(), Diff: diffOptions(r.Clamp, 0, false)})
	if err != nil {
		return out, err
	}
	defer d.Close()
	if err := fileop.Do(ctx, fileop.Options{Draft: d, Inputs: inputs, SingleID: s.singleID}, r.Actions); err != nil {
		return out, err
	}
	id := s.session.newID()
	defer s.discard(id)
	dir, err := s.driver.Dir(id)
	if err != nil {
		return out, err
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return out, err
	}
	defer root.Close()
	res, withRoot, err := d.Lay(ctx, root, fileop.LayOptions{SingleID: s.singleID, Wrote: (&flusher{dir: dir, beside: &s.tidy}).wrote})
	if err != nil {
		return out, err
	}
	out.ApplyReply = ApplyReply{DiffID: res.DiffID, Size: res.Size, WithRoot: withRoot}
	return out, s.driver.Adopt(dir, layerTree(r.Chain, res.DiffID))
}

// writeDraft writes the archive: digest and compression happen beside it.
func writeDraft(ctx context.Context, d *fileop.Draft, f *os.File, r ChangeRequest) (out ChangeReply, err error) {
	plain := r.Draft.Algorithm == compress.None
	var w io.Writer = &writeback{file: f}
	sum := &summed{w: w, hash: sha256.New()}
	buffered := bufio.NewWriterSize(sum, 1<<20)
	var z io.WriteCloser
	if !plain { // of a tar alone the diffID is the digest
		if z, err = compress.NewWriter(buffered, r.Draft.Algorithm, compress.WriterOptions{Level: r.Draft.Level}); err != nil {
			return out, err
		}
		w = z
	}
	res, withRoot, err := d.Archive(ctx, w)
	if z != nil {
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return out, err
	}
	if err := buffered.Flush(); err != nil {
		return out, fmt.Errorf("write blob: %w", err)
	}
	out.ApplyReply = ApplyReply{DiffID: res.DiffID, Size: res.Size, WithRoot: withRoot}
	out.Blob = PackReply{Digest: sum.digest(), Size: sum.n, DiffID: res.DiffID, TarSize: res.Size}
	if plain {
		out.Blob.Digest, out.Blob.Size = res.DiffID, res.Size
	}
	return out, nil
}
