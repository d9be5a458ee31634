// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/worker"
)

// entry is one entry of a tar that the worker streams. Name is relative to what
// was picked: "" is the picked file or directory itself.
type entry struct {
	name   string
	header *tar.Header
	body   io.Reader
	hash   string // wanted sha256 of the picked file
	path   string
}

// copyTo writes the entry's bytes and checks the wanted hash.
func (e entry) copyTo(w io.Writer) error {
	h := sha256.New()
	if _, err := io.Copy(w, io.TeeReader(e.body, h)); err != nil {
		return err
	}
	return checkHash(e.path, e.hash, hex.EncodeToString(h.Sum(nil)))
}

// readPick streams a path of a root file system; f is called for each entry,
// the top one first.
func (b *Builder) readPick(ctx context.Context, p *cache.Pick, f func(entry) error) error {
	trees, err := b.trees(ctx, p.Layers, nil)
	if err != nil {
		return err
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return err
	}
	r, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := w.ReadTar(ctx, worker.ReadTarRequest{Lower: trees, Path: p.Path}, out)
		_ = out.Close()
		done <- err
	}()
	err = readEntries(r, p, f)
	if err != nil {
		cancel()
	} else {
		_, err = io.Copy(io.Discard, r) // what pads the tar
	}
	_ = r.Close()
	if werr := <-done; werr != nil && (err == nil || !errors.Is(werr, context.Canceled)) {
		return werr
	}
	return err
}

func readEntries(r io.Reader, p *cache.Pick, f func(entry) error) error {
	tr := tar.NewReader(r)
	first := true
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", p.Path, err)
		}
		e := entry{name: strings.Trim(path.Clean("/"+h.Name), "/"), header: h, body: tr, hash: p.Hash, path: p.Path}
		if first && h.Typeflag == tar.TypeReg {
			e.name = ""
		}
		if p.Hash != "" && h.Typeflag != tar.TypeReg {
			return fmt.Errorf("import %s has a hash, but is not a file: only files can have one", p.Path)
		}
		first = false
		if err := f(e); err != nil {
			return err
		}
	}
}
