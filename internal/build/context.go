// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source/httpfile"
	"build.stacker.dev/internal/source/localtree"
	"build.stacker.dev/internal/worker"
)

// listing is a local tree that copies read from: a build context, the files of a
// commit, or a download.
type listing struct {
	entries []localtree.Entry
	dir     string // where the bytes are
	name    string // of a single file: what copies call it
	kept    string // and what it is called in dir

	digest func() string       // of all of it
	tree   func() *fileop.Tree // to choose from; both are made at the first need
}

// listings are those of this build, by the Content of the result that stands for them.
type listings struct {
	mu   sync.Mutex
	byID map[string]*listing
}

// add keeps a listing and returns its name, which no other has.
func (l *listings) add(x *listing) (id string) {
	x.digest = sync.OnceValue(func() string {
		sum := sha256.Sum256(append(localtree.Marshal(x.entries), x.name...))
		return hex.EncodeToString(sum[:])
	})
	x.tree = sync.OnceValue(func() *fileop.Tree { return fileop.ListTree(x.entries, nil, x.name, x.kept) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[string]*listing{}
	}
	id = "files " + strconv.Itoa(len(l.byID)+1)
	l.byID[id] = x
	return id
}

func (l *listings) get(r cache.Result) *listing {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[r.Content]
}

// context lists the part of a local directory that a build reads.
func (b *Builder) context(ctx context.Context, op graph.Context) (*cache.Result, error) {
	include := op.Include
	if len(op.Follow) > 0 {
		root, err := rootfs.Open(op.Path)
		if err != nil {
			return nil, fmt.Errorf("open build context: %w", err)
		}
		more, err := follow(root, op.Follow)
		_ = root.Close()
		if err != nil {
			return nil, fmt.Errorf("read build context: %w", err)
		}
		include = append(include, more...)
	}
	exclude := op.Exclude
	if own := below(op.Path, b.State.Path("")); own != "" {
		// It changes while it is read, and what is in it is nobody's source.
		exclude = append(slices.Clone(exclude), quoted.Replace(own))
	}
	keep, err := filter(include, exclude)
	if err != nil {
		return nil, err
	}
	t, err := b.scanLocal(ctx, op.Path, localtree.Options{Include: keep, FollowRoot: true, Xattrs: true})
	if err != nil {
		return nil, err
	}
	if len(t.Entries) > 0 && !t.Entries[0].IsDir() {
		return nil, fmt.Errorf("build context %s is no directory", op.Path)
	}
	return b.listed(&listing{entries: t.Entries, dir: t.Root}), nil
}

// quoted makes a pattern of a path that matches nothing else.
var quoted = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "!", `\!`)

// below is where a directory lies below another; empty: nowhere.
func below(dir, sub string) string {
	for _, p := range []*string{&dir, &sub} {
		abs, err := filepath.Abs(*p)
		if err == nil {
			*p, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return ""
		}
	}
	rel, err := filepath.Rel(dir, sub)
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

// muchRead is how many bytes of a local tree must be new to say that a step will run.
const muchRead = 8 << 20

// scanLocal lists and hashes a local tree. While it reads much that it did not know, the
// worker is started: a step that takes the tree will most likely need it.
func (b *Builder) scanLocal(ctx context.Context, root string, o localtree.Options) (*localtree.Tree, error) {
	var starting sync.WaitGroup
	start := sync.OnceFunc(func() {
		starting.Go(func() { _, _ = b.State.Worker(ctx) }) // who needs it asks again
	})
	var read atomic.Int64
	o.Progress = func(n int64) {
		if read.Add(n) >= muchRead && !b.Looking {
			start()
		}
	}
	defer starting.Wait()
	return b.index.Scan(ctx, root, o)
}

// listed makes a result of a listing. Its name says nothing about what the files
// hold: two equal trees are read where they are.
func (b *Builder) listed(l *listing) *cache.Result {
	return &cache.Result{Content: b.lists.add(l), Path: l.dir}
}

// download fetches a file for ADD, or finds that the kept one still stands.
func (b *Builder) download(ctx context.Context, op graph.Download, emit solve.Sink) (*cache.Result, error) {
	o := b.HTTP
	o.Hash, o.Index = op.Checksum, b.index
	f, err := httpfile.Fetch(ctx, op.URL, o)
	if err != nil {
		return nil, err
	}
	if f.How == httpfile.Downloaded && emit != nil {
		emit(solve.Event{Kind: solve.Note, Text: "downloaded " + displayURL(op.URL)})
	}
	mode := op.Mode
	if mode == 0 {
		mode = 0o600
	}
	e := localtree.Entry{Mode: unix.S_IFREG | mode&0o7777, Size: f.Size, Digest: f.Digest, UID: uint32(op.UID), GID: uint32(op.GID)}
	return b.listed(&listing{
		entries: []localtree.Entry{e}, dir: filepath.Dir(f.Path), name: op.Filename, kept: filepath.Base(f.Path),
	}), nil
}

// input opens what a copy reads for the worker.
func (b *Builder) input(ctx context.Context, n int, r cache.Result, files *[]*os.File, emit solve.Sink) (worker.ChangeInput, error) {
	in := worker.ChangeInput{Number: n}
	l := b.lists.get(r)
	if l == nil {
		var err error
		in.Lower, err = b.trees(ctx, r.Layers, emit)
		return in, err
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return in, err
	}
	dir, _, err := w.Bind(l.dir)
	if err != nil {
		return in, fmt.Errorf("open %s: %w", l.dir, err)
	}
	*files = append(*files, dir)
	list, err := inMemory("listing", localtree.Marshal(l.entries))
	if err != nil {
		return in, err
	}
	*files = append(*files, list)
	stamps, err := inMemory("stamps", localtree.MarshalStamps(l.entries))
	if err != nil {
		return in, err
	}
	*files = append(*files, stamps)
	in.Local = &worker.LocalInput{Dir: len(*files) - 3, List: len(*files) - 2, Stamps: len(*files) - 1, Name: l.name, Kept: l.kept}
	return in, nil
}

// inMemory gives a file with data that is on no disk.
func inMemory(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write file in memory: %w", err)
	}
	return f, nil
}

// ReadFile reads a small file of a source for a frontend: of a context, the files
// of a commit, a download, or any other result. limit is in bytes.
func (b *Builder) ReadFile(ctx context.Context, r cache.Result, name string, limit int64) ([]byte, error) {
	l := b.lists.get(r)
	if l == nil {
		return b.readSmall(ctx, r, name, limit)
	}
	if l.name != "" && strings.Trim(name, "/") == l.name {
		name = l.kept
	}
	return ReadLocal(l.dir, name, limit)
}

// ReadLocal reads a small file of a local directory for a frontend, as ReadFile
// does of the result that stands for it, but without listing the directory.
func ReadLocal(dir, name string, limit int64) ([]byte, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, name, limit)
}

// part is what of a listing a mount of one of its paths shows, with the
// directories that lead there: all of it where links lead elsewhere.
func (b *Builder) part(r cache.Result, selector string) cache.Result {
	l, p := b.lists.get(r), rootfs.Clean(selector)
	if l == nil || p == "." || l.name != "" {
		return r
	}
	var out []localtree.Entry
	found := false
	for _, e := range l.entries {
		switch {
		case e.Path == p && e.IsSymlink(), e.IsSymlink() && strings.HasPrefix(p, e.Path+"/"):
			return r
		case e.Path == p, strings.HasPrefix(e.Path, p+"/"):
			found = true
			out = append(out, e)
		case e.Path == "", strings.HasPrefix(p, e.Path+"/"):
			out = append(out, e)
		}
	}
	if !found {
		return r
	}
	return *b.listed(&listing{entries: out, dir: l.dir})
}
