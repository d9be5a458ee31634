// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"build.stacker.dev/internal/image"
)

// filesOutput writes the files of results: a tar archive, or a directory.
type filesOutput struct {
	e    *Exporter
	spec Spec
	file *newFile // of a tar; nil: the standard output

	mu    sync.Mutex
	added int
	names map[string]bool // what the build put into the directory
}

func (e *Exporter) openTar(s Spec) (Output, error) {
	o := &filesOutput{e: e, spec: s}
	if s.ToStdout() {
		return o, nil
	}
	f, err := createNew(s.Dest)
	o.file = f
	return o, err
}

func (e *Exporter) openLocal(s Spec) (Output, error) {
	if err := os.MkdirAll(s.Dest, 0o755); err != nil {
		return nil, fmt.Errorf("make dest: %w", err)
	}
	return &filesOutput{e: e, spec: s, names: map[string]bool{}}, nil
}

// Add implements Output.
func (o *filesOutput) Add(ctx context.Context, _ []string, products ...Product) (Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.added++; o.added > 1 {
		return Outcome{}, fmt.Errorf("type=%s takes the files of one image: choose it with --target", o.spec.Type)
	}
	split := len(products) > 1
	if o.spec.PlatformSplit != nil {
		split = *o.spec.PlatformSplit
	}
	if o.spec.Type == Tar {
		return Outcome{}, o.writeTar(ctx, products, split)
	}
	for _, p := range products {
		dir := o.spec.Dest
		prefix := ""
		if split {
			prefix = platformDir(p)
			dir = filepath.Join(dir, prefix) // made of letters, digits and _
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return Outcome{}, fmt.Errorf("make dest: %w", err)
			}
			o.names[prefix] = true
		}
		if len(p.Layers) == 0 {
			continue
		}
		names, err := o.e.Files.WriteDir(ctx, p.Layers, o.from(), dir)
		if err != nil {
			return Outcome{}, fmt.Errorf("export %s: %w", p.Name, err)
		}
		for _, n := range names {
			o.names[path.Join(prefix, n)] = true
		}
	}
	return Outcome{}, nil
}

// from is the path of the result whose files are wanted.
func (o *filesOutput) from() string { return path.Join("/", o.spec.Source) }

// platformDir is the directory of a platform: linux_amd64.
func platformDir(p Product) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, image.NewPlatform(platform(p.Config)).String())
}

// writeTar writes the archive.
func (o *filesOutput) writeTar(ctx context.Context, products []Product, split bool) error {
	out := o.e.Stdout
	if o.file != nil {
		out = o.file.File
	}
	if len(products) == 1 && !split && len(products[0].Layers) > 0 {
		return o.e.Files.WriteTar(ctx, products[0].Layers, o.from(), out)
	}
	w := tar.NewWriter(out)
	for _, p := range products {
		if len(p.Layers) == 0 {
			continue
		}
		prefix := ""
		if split {
			prefix = platformDir(p)
		}
		if err := o.copyTar(ctx, p, prefix, w); err != nil {
			return fmt.Errorf("export %s: %w", p.Name, err)
		}
	}
	return w.Close()
}

// copyTar copies the members of one product's tar below a directory.
func (o *filesOutput) copyTar(ctx context.Context, p Product, prefix string, w *tar.Writer) error {
	r, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := o.e.Files.WriteTar(ctx, p.Layers, o.from(), out)
		_ = out.Close()
		done <- err
	}()
	err = prefixMembers(tar.NewReader(r), prefix, w)
	if err != nil {
		cancel()
	} else {
		_, err = io.Copy(io.Discard, r) // what pads the tar
	}
	_ = r.Close()
	if werr := <-done; werr != nil && !errors.Is(werr, context.Canceled) {
		return werr
	}
	return err
}

func prefixMembers(r *tar.Reader, prefix string, w *tar.Writer) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = under(prefix, h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = under(prefix, h.Linkname)
		}
		delete(h.PAXRecords, "path")
		delete(h.PAXRecords, "linkpath")
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

func under(prefix, name string) string {
	dir := strings.HasSuffix(name, "/")
	name = path.Join(prefix, name)
	if dir {
		name += "/"
	}
	return name
}

// Close implements Output.
func (o *filesOutput) Close(_ context.Context, failed error) error {
	if o.file != nil {
		defer o.file.drop()
	}
	switch {
	case failed != nil:
		return nil
	case o.file != nil && o.file.to != "":
		return o.file.publish()
	case o.spec.Delete && o.added > 0:
		return o.deleteOthers()
	}
	return nil
}

// deleteOthers removes what is in the directory and not in the result.
func (o *filesOutput) deleteOthers() error {
	root, err := os.OpenRoot(o.spec.Dest)
	if err != nil {
		return fmt.Errorf("open dest: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." || o.names[name] {
			return err
		}
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("mode=delete: %w", err)
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}
