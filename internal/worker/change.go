// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/source/localtree"
)

// ChangeRequest changes files on top of Lower by actions, and keeps what changed
// as a layer, or as the tree Tree.
type ChangeRequest struct {
	Lower   []string
	Chain   string // chainID of Lower; empty: there are none
	Actions []action.Action
	Inputs  []ChangeInput
	Clamp   *int64
	Tree    string // see ApplyRequest

	// Draft: nobody reads the files. They become the blob of a layer at once, and no
	// tree; trees of names will do for Lower.
	Draft *DraftRequest `json:",omitempty"`
}

// DraftRequest says how the blob is to be.
type DraftRequest struct {
	Out       int                // number of the file that it is written to
	Algorithm compress.Algorithm // its compression
	Level     int
	Under     string // chain of the draft of this worker that it is on; empty: on Lower
	Now       int64  // the time of what has no other, in nanoseconds since 1970
	Digest    bool   // only the digest is wanted: nothing is written or kept, and Out is not used
}

// ChangeReply is the new layer.
type ChangeReply struct {
	ApplyReply
	Blob      PackReply // of a draft
	Undecided bool      // it takes the files of the layers below: there is no layer
}

// ChangeInput is something that copies read: a stack of trees, or a local tree.
type ChangeInput struct {
	Number int // by which actions name it
	Lower  []string
	Local  *LocalInput
}

// LocalInput is a listed tree of this machine: Dir numbers the file that is its
// directory, List the one that holds the listing, and Stamps what tells that files are
// as they were listed. Where that is of a single file, copies know it as Name, and it
// lies in Dir as Kept.
type LocalInput struct {
	Dir, List, Stamps int
	Name, Kept        string
}

// Change changes files.
func (c *Client) Change(ctx context.Context, r ChangeRequest, files []*os.File) (ChangeReply, error) {
	var out ChangeReply
	err := c.call(ctx, request{Change: &r}, files, nil, &out)
	return out, err
}

func (s *server) change(ctx context.Context, c *call, r ChangeRequest) (out ChangeReply, err error) {
	if r.Tree != "" && s.driver.Exists(r.Tree) {
		return out, nil
	}
	inputs, release, err := s.inputs(c, r.Inputs)
	defer release()
	if err != nil {
		return out, err
	}
	if r.Draft != nil {
		return s.draft(ctx, c, r, inputs)
	}
	if r.Tree == "" {
		out, err = s.lay(ctx, r, inputs)
		if err == nil || !errors.Is(err, fileop.ErrUndecided) {
			return out, err
		}
	}
	return s.mounted(ctx, r, inputs)
}

// mounted changes files where only the file system can tell what becomes of them.
func (s *server) mounted(ctx context.Context, r ChangeRequest, inputs map[int]*fileop.Tree) (out ChangeReply, err error) {
	id := s.session.newID()
	defer s.discard(id)
	a, err := s.prepare(ctx, id, r.Lower)
	if err != nil {
		return out, err
	}
	root, err := s.writable(ctx, a)
	if err != nil {
		return out, err
	}
	err = fileop.Do(ctx, fileop.Options{Root: root, Inputs: inputs, SingleID: s.singleID, Tree: len(a.Lowers) == 0}, r.Actions)
	_ = root.Close()
	if err == nil && len(a.Lowers) > 0 {
		err = s.of(a).Capture(ctx, a)
	}
	if err != nil {
		return out, err
	}
	if r.Tree != "" {
		return out, s.driver.Adopt(a.Upper, r.Tree)
	}
	out.ApplyReply, err = s.describeKept(ctx, a.Upper, a.Lowers, r.Clamp, 0)
	if err != nil {
		return out, err
	}
	return out, s.driver.Adopt(a.Upper, layerTree(r.Chain, out.DiffID))
}

// writable opens an active snapshot to be changed, mounted nowhere.
func (s *server) writable(ctx context.Context, a snapshot.Active) (*rootfs.Root, error) {
	if len(a.Lowers) == 0 {
		return rootfs.Open(a.Upper)
	}
	if a.Root != "" {
		if err := s.of(a).Begin(ctx, a, nil); err != nil {
			return nil, err
		}
		return rootfs.Open(a.Root)
	}
	m, err := mount.Overlay(mount.OverlayOptions{Lowers: a.Lowers, Upper: a.Upper, Work: a.Work})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return rootfs.OpenAt(int(m.Fd()), ".")
}

// describeKept is describe for a layer that is kept even if it is empty.
func (s *server) describeKept(ctx context.Context, dir string, lower []string, clamp *int64, start int64) (ApplyReply, error) {
	out, err := s.describe(ctx, dir, lower, clamp, start)
	if err != nil || !out.Empty {
		return out, err
	}
	return ApplyReply{DiffID: emptyDiffID, Size: emptySize}, nil
}

// emptyDiffID is the digest of a tar without entries: two blocks of zeros.
const (
	emptyDiffID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
	emptySize   = 1024
)

// inputs opens what copies read. release is never nil.
func (s *server) inputs(c *call, all []ChangeInput) (trees map[int]*fileop.Tree, release func(), err error) {
	var roots []*rootfs.Root
	release = func() {
		for _, r := range roots {
			_ = r.Close()
		}
	}
	trees = map[int]*fileop.Tree{}
	for _, in := range all {
		var root *rootfs.Root
		var tree *fileop.Tree
		switch {
		case in.Local != nil:
			root, tree, err = localInput(c, *in.Local)
		case len(in.Lower) == 0:
			if root, err = s.nothing(); err == nil {
				tree = fileop.RootTree(root)
			}
		default:
			if root, err = s.view(in.Lower); err == nil {
				tree = viewTree(root, in.Lower)
			}
		}
		if err != nil {
			return nil, release, err
		}
		roots = append(roots, root)
		trees[in.Number] = tree
	}
	return trees, release, nil
}

// viewTree is what a view of lower shows. That of one tree is the tree itself.
func viewTree(view *rootfs.Root, lower []string) *fileop.Tree {
	if len(lower) == 1 {
		return fileop.LayerTree(view)
	}
	return fileop.RootTree(view)
}

// nothing is an empty root file system.
func (s *server) nothing() (*rootfs.Root, error) {
	id := s.session.newID()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.atEnd = append(s.atEnd, id)
	s.mu.Unlock()
	return rootfs.Open(dir)
}

// maxList bounds a listing, in bytes.
const maxList = 1 << 30

func localInput(c *call, in LocalInput) (*rootfs.Root, *fileop.Tree, error) {
	dir, err := c.file(in.Dir)
	if err != nil {
		return nil, nil, err
	}
	var raw [2][]byte
	for i, n := range []int{in.List, in.Stamps} {
		f, err := c.file(n)
		if err == nil {
			raw[i], err = io.ReadAll(io.NewSectionReader(f, 0, maxList))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read listing: %w", err)
		}
	}
	entries, err := localtree.Unmarshal(raw[0])
	if err == nil {
		err = localtree.SetStamps(entries, raw[1])
	}
	if err != nil {
		return nil, nil, err
	}
	root, err := rootfs.OpenAt(int(dir.Fd()), ".")
	if err != nil {
		return nil, nil, err
	}
	return root, fileop.ListTree(entries, root, in.Name, in.Kept), nil
}
