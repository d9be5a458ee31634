// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/solve"
)

func (a *app) unladeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unlade [TAG...]",
		Short: "unpack images of the OCI layout into the roots directory",
		Long: "unlade unpacks the images of the OCI layout, all or those named, to ROOTS-DIR/TAG/rootfs. Files get the\n" +
			"user's own ids and keep their modes, without set-user-id bits; devices are left out.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.unlade(cmd.Context(), args) },
	}
}

func (a *app) unlade(ctx context.Context, tags []string) error {
	unlock, err := a.lockProject(true)
	if err != nil {
		return err
	}
	defer unlock()
	tags, err = a.layoutTags(tags)
	if err != nil {
		return err
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	display, err := a.display()
	if err != nil {
		return err
	}
	b := a.builder(ctx, s)
	g := &graph.Build{}
	for _, tag := range tags {
		name := "oci:" + a.settings.ociDir + ":" + tag
		v := &graph.Vertex{Op: graph.Image{Reference: name}, Stage: tag, Name: "unpack " + name}
		g.Targets = append(g.Targets, &graph.Target{Name: tag, Vertex: v})
	}
	solver := solve.New(solve.Options{Cache: s.Cache, Runner: b, Events: display.Handle, Now: a.now, Dir: workingDir()})
	err = solver.Solve(ctx, g, func(ctx context.Context, t *graph.Target, r cache.Result) error {
		if err := unpackTo(ctx, b, r, a.settings.rootsDir, t.Name); err != nil {
			return fmt.Errorf("unpack %s: %w", t.Name, err)
		}
		display.Handle(solve.Event{
			Kind: solve.Note, Text: fmt.Sprintf("unpacked %s to %s", t.Name, filepath.Join(a.settings.rootsDir, t.Name, "rootfs")), Time: a.now(),
		})
		return nil
	})
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	return err
}

// layoutTags gives the tags that were asked for, or all, in the order of the layout.
func (a *app) layoutTags(asked []string) ([]string, error) {
	l, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	idx, err := l.Index()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, d := range idx.Manifests {
		if tag := d.Annotations[ocispec.AnnotationRefName]; tag != "" {
			all = append(all, tag)
		}
	}
	for _, tag := range asked {
		if !slices.Contains(all, tag) {
			return nil, fmt.Errorf("bad descriptor %s: %s has the tags %v", tag, a.settings.ociDir, all)
		}
	}
	if len(asked) == 0 {
		asked = all
	}
	for _, tag := range asked {
		if !filepath.IsLocal(filepath.FromSlash(tag)) {
			return nil, fmt.Errorf("tag %q cannot be a directory", tag)
		}
	}
	return asked, nil
}

// unpackTo puts the files of an image into ROOTS/TAG/rootfs. They appear there
// when all are there; what was there before goes.
func unpackTo(ctx context.Context, b *build.Builder, r cache.Result, roots, tag string) error {
	if err := os.MkdirAll(roots, 0o755); err != nil {
		return fmt.Errorf("make roots directory: %w", err)
	}
	root, err := os.OpenRoot(roots)
	if err != nil {
		return fmt.Errorf("open roots directory: %w", err)
	}
	defer root.Close()
	temp, err := os.MkdirTemp(roots, ".tmp-")
	if err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	defer func() { _ = removeTree(temp) }()
	if len(r.Layers) == 0 {
		err = os.Mkdir(filepath.Join(temp, "rootfs"), 0o755)
	} else {
		err = b.Grab(ctx, r, "/", temp)
	}
	if err != nil {
		return err
	}
	to := filepath.Join(filepath.FromSlash(tag), "rootfs")
	if err := root.MkdirAll(filepath.FromSlash(tag), 0o755); err != nil {
		return err
	}
	from := filepath.Base(temp)
	err = root.Rename(to, filepath.Join(from, "old"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.Rename(filepath.Join(from, "rootfs"), to)
}

// removeTree removes a directory whose directories may forbid that.
func removeTree(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
