// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

func (a *app) pushCommand() *cobra.Command {
	var insecure bool
	cmd := &cobra.Command{
		Use:   "push IMAGE [DESTINATION]",
		Short: "copy an image of the local store to a registry, a layout or an archive",
		Long: "push copies an image to the registry of its name, or to DESTINATION: another name, docker://NAME,\n" +
			"oci:DIRECTORY:TAG, oci-archive:FILE, docker-archive:FILE or dir:DIRECTORY.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.push(cmd.Context(), insecure, args[0], args[len(args)-1])
		},
	}
	cmd.Flags().BoolVar(&insecure, "insecure-registry", false, "accept plain http and certificates that cannot be verified")
	return cmd
}

func (a *app) push(ctx context.Context, insecure bool, what, destination string) error {
	from, err := parseLocation(what)
	if err != nil {
		return err
	}
	to, err := parseLocation(destination)
	if err != nil {
		return err
	}
	if to.transport == inStore {
		to.transport = inRegistry
		if to.ref, err = reference.Parse(destination); err != nil {
			return err
		}
	}
	return a.transferring(ctx, func(_ *state.State, e *export.Exporter) error {
		f, err := a.find(ctx, e, from, insecure)
		if err != nil {
			return fmt.Errorf("push %s: %w", what, err)
		}
		defer f.close()
		if err := a.say("Pushing %s...\n", destination); err != nil {
			return err
		}
		if err := a.send(ctx, e, f, to, insecure); err != nil {
			return err
		}
		return a.say("Successfully pushed %s\n", destination)
	})
}

// send copies an image to a place that is not the local store.
func (a *app) send(ctx context.Context, e *export.Exporter, from found, to location, insecure bool) error {
	root := ocispec.Descriptor{MediaType: from.image.MediaType, Digest: from.image.Digest, Size: from.image.Size}
	switch to.transport {
	case inRegistry:
		return e.Push(ctx, from, to.ref, root, insecure)
	case inLayout:
		l, err := layout.Create(ctx, to.path)
		if err != nil {
			return err
		}
		defer l.Close()
		release, err := l.Hold(ctx)
		if err != nil {
			return err
		}
		defer release()
		if err := transfer.Image(ctx, from, root, e.Blobs(l.Blobs(), to.path), transfer.Options{}); err != nil {
			return err
		}
		return l.Tag(ctx, layout.Entry{Tag: to.tag, Descriptor: root})
	case inOCIArchive, inDockerArchive:
		names := []string{}
		if to.tag != "" {
			names = append(names, to.tag)
		}
		return export.WriteArchive(ctx, to.path, nil, to.transport == inDockerArchive, []export.Listed{{Source: from, Image: root, Names: names}})
	case inDir:
		d, err := archive.OpenDir(to.path, true)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := transfer.Image(ctx, from, root, d, transfer.Options{}); err != nil {
			return err
		}
		return d.Finish(root)
	case inStore:
	}
	return fmt.Errorf("push to %q: it is no destination", to.text)
}
