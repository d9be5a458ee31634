// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source/httpfile"
	"build.stacker.dev/internal/source/localtree"
)

// ErrHash tells that a file is not the one that a build file's hash names.
type ErrHash struct{ Path, Want, Got string }

// Error keeps the words that scripts look for.
func (e *ErrHash) Error() string {
	return fmt.Sprintf("The requested hash of %s import is different than the actual hash: %s != %s", e.Path, e.Want, e.Got)
}

// checkHash compares a wanted hash (any letter case) with a file's.
func checkHash(path, want, got string) error {
	if want != "" && !strings.EqualFold(want, got) {
		return &ErrHash{Path: path, Want: strings.ToLower(want), Got: got}
	}
	return nil
}

// local lists and hashes a local file or directory. Of a tree that did not
// change since the last build no file is opened.
func (b *Builder) local(ctx context.Context, op graph.Local) (*cache.Result, error) {
	t, err := b.scanLocal(ctx, op.Path, localtree.Options{})
	switch {
	case errors.Is(err, os.ErrNotExist) && op.Dir:
		return nil, fmt.Errorf("Given overlay_dir %s doesn't exists: %w", op.Path, unix.ENOENT)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("couldn't stat import %s: %w", op.Path, unix.ENOENT)
	case err != nil:
		return nil, err
	case op.Dir && (len(t.Entries) == 0 || !t.Entries[0].IsDir()):
		return nil, fmt.Errorf("Given overlay_dir %s should be a directory", op.Path)
	}
	if op.Hash != "" {
		if len(t.Entries) != 1 || !t.Entries[0].IsRegular() {
			return nil, fmt.Errorf("import %s has a hash, but is not a file: only files can have one", op.Path)
		}
		if err := checkHash(op.Path, op.Hash, t.Entries[0].Digest.Encoded()); err != nil {
			return nil, err
		}
	}
	return b.files(t, op.Path)
}

// files makes a result of a listed tree and keeps the listing.
func (b *Builder) files(t *localtree.Tree, path string) (*cache.Result, error) {
	list, err := b.State.Cache.PutList(localtree.Marshal(t.Entries))
	if err != nil {
		return nil, err
	}
	return &cache.Result{Content: string(t.Digest()), List: list, Path: path}, nil
}

// http fetches a file, or finds that the one that is here still stands.
func (b *Builder) http(ctx context.Context, op graph.HTTP, emit solve.Sink) (*cache.Result, error) {
	begin := sync.OnceFunc(func() {
		emit(solve.Event{Kind: solve.Note, Text: "downloading " + displayURL(op.URL)})
	})
	o := b.HTTP
	o.Hash, o.Index = op.Hash, b.index
	o.Progress = func(done, _ int64) {
		if done > 0 {
			begin()
		}
	}
	f, err := httpfile.Fetch(ctx, op.URL, o)
	if err != nil {
		return nil, err
	}
	switch {
	case f.How == httpfile.ReusedOffline:
		emit(solve.Event{Kind: solve.Note, Level: solve.Warning, Text: "Couldn't obtain file info of " + displayURL(op.URL) + ", using cached copy"})
	case f.How == httpfile.Downloaded:
		begin()            // an empty file has no progress
		if op.Hash == "" { // for people who want to write it down
			emit(solve.Event{Kind: solve.Note, Text: fmt.Sprintf("imported file hashes (after substitutions):\n  - path: %q\n    hash: %q",
				displayURL(op.URL), f.Digest.Encoded())})
		}
	}
	t, err := b.index.Scan(ctx, f.Path, localtree.Options{})
	if err != nil {
		return nil, err
	}
	if len(t.Entries) != 1 || t.Entries[0].Digest != f.Digest {
		return nil, fmt.Errorf("download %s: the kept file is damaged: run the build again", displayURL(op.URL))
	}
	setMode(t, downloadMode)
	r, err := b.files(t, f.Path)
	if err == nil {
		r.Mode = downloadMode
	}
	return r, err
}

// downloadMode is that of files from a URL, which has none.
const downloadMode = 0o644

// setMode gives a listed file other permission bits; 0 leaves it alone.
func setMode(t *localtree.Tree, mode uint32) {
	if mode != 0 && len(t.Entries) == 1 {
		t.Entries[0].Mode = t.Entries[0].Mode&^0o7777 | mode
	}
}

// tree lists the files of a result again, to be read.
func (b *Builder) tree(ctx context.Context, r cache.Result) (*localtree.Tree, error) {
	t, err := b.index.Scan(ctx, r.Path, localtree.Options{})
	if err != nil {
		return nil, err
	}
	setMode(t, r.Mode)
	if string(t.Digest()) != r.Content {
		return nil, fmt.Errorf("%s changed during the build: run it again", r.Path)
	}
	return t, nil
}

// displayURL is a URL without the password in it.
func displayURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "URL"
	}
	return u.Redacted()
}

// pick names a path of another root file system. What it holds is read when it
// is used; until then it is known by the layers below it.
func pick(op graph.Pick, in cache.Result) *cache.Result {
	// With the hash: another one is asked for only when the files are read again.
	sum := sha256.Sum256([]byte(in.Chain() + "\x00" + op.Path + "\x00" + op.Hash))
	return &cache.Result{
		Content: "pick:" + hex.EncodeToString(sum[:]),
		Pick:    &cache.Pick{Layers: in.Layers, Path: op.Path, Hash: op.Hash},
	}
}

// openFile opens the one file that a Local, an HTTP or a Pick holds.
func (b *Builder) openFile(ctx context.Context, r cache.Result) (*os.File, error) {
	if r.Pick == nil {
		return os.Open(r.Path)
	}
	f, err := os.CreateTemp(b.State.Path(""), "tmp-pick-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // the open file stays
	err = b.readPick(ctx, r.Pick, func(e entry) error {
		if !e.header.FileInfo().Mode().IsRegular() {
			return fmt.Errorf("%s is not a file", r.Pick.Path)
		}
		return e.copyTo(f)
	})
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// ImportsCopy puts a step's imports where users of stacker.yaml look for them:
// one file or directory per import, below the directory that the step names.
// The build itself does not read them. Where they are there already, nothing is
// read or written. tell gets a sentence about each.
func (b *Builder) ImportsCopy(ctx context.Context, v *graph.Vertex, results func(*graph.Vertex) (cache.Result, bool), tell func(text string)) error {
	copies, dir := importsOf(v)
	if dir == "" {
		return nil
	}
	if err := b.safeDir(dir); err != nil {
		return err
	}
	for _, c := range copies {
		r, ok := results(v.Inputs[c.Input])
		if !ok || r.Path == "" {
			continue // from another stage: it is no file of this machine
		}
		t, err := b.tree(ctx, r)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, c.Name)
		if c.Contents {
			if len(copies) > 1 { // others lie there too: nothing may be removed
				continue
			}
			to = dir
		}
		changes, err := t.CopyTo(ctx, b.index, to)
		if err != nil {
			return fmt.Errorf("copy imports: %w", err)
		}
		what := r.Path
		if op, ok := v.Inputs[c.Input].Op.(graph.HTTP); ok {
			what = displayURL(op.URL)
		}
		if len(changes) > 0 {
			tell("copying " + what)
		} else {
			tell("using cached copy of " + what)
		}
	}
	return nil
}

// safeDir makes a directory for imports. A project may come from anybody, with
// links at our places that lead out of it: nothing is written through them.
func (b *Builder) safeDir(dir string) error {
	base := b.StackerDir
	if !b.StackerDirGiven {
		base = filepath.Dir(base) // a link called .stacker is the project's, too
	}
	rel, err := filepath.Rel(base, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("imports directory %s is not below %s", dir, base)
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return fmt.Errorf("make imports directory: %w", err)
	}
	p := base
	for elem := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		p = filepath.Join(p, elem)
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make imports directory: %w", err)
		}
		info, err := os.Lstat(p)
		if err != nil {
			return fmt.Errorf("make imports directory: %w", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no directory (a link?): nothing is written through it; remove it, or choose another place with --stacker-dir", p)
		}
	}
	return nil
}

// importsOf gives the imports that a vertex shows to a step, and where people
// find them.
func importsOf(v *graph.Vertex) ([]graph.Copy, string) {
	switch op := v.Op.(type) {
	case graph.Exec:
		return op.Imports, op.ImportsCopy
	case graph.Imports:
		return op.Copies, op.CopiesAt
	}
	return nil, ""
}
