// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

func (a *app) loadCommand() *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load",
		Short: "read images from an archive into the local store",
		Long:  "load reads what docker save, podman save, skopeo and stacker save write, also compressed.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.loadArchive(cmd.Context(), input) },
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "file to read (default: the standard input)")
	return cmd
}

func (a *app) loadArchive(ctx context.Context, input string) error {
	if (input == "" || input == "-") && term.IsTerminal(int(a.std.In.Fd())) {
		return errors.New("refusing to read an archive from a terminal: use -i FILE or redirect")
	}
	if input == "-" {
		input = ""
	}
	return a.transferring(ctx, func(s *state.State, e *export.Exporter) error {
		r, done, err := openArchive(s, input, a.std.In)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		defer done()
		if len(r.Images()) == 0 {
			return errors.New("load: the archive has no images")
		}
		// All images first, and then all names: a broken archive changes nothing.
		for _, i := range r.Images() {
			if err := a.loadImage(ctx, e, r, i); err != nil {
				return fmt.Errorf("load: image %s: %w", i.Descriptor.Digest, err)
			}
		}
		for _, i := range r.Images() {
			if err := a.nameLoaded(s, i); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadImage copies one image.
func (a *app) loadImage(ctx context.Context, e *export.Exporter, r *archive.Reader, i archive.Image) error {
	if !image.IsIndex(i.Descriptor.MediaType) && !image.IsManifest(i.Descriptor.MediaType) {
		return fmt.Errorf("it is no image: %.100q", i.Descriptor.MediaType)
	}
	return transfer.Image(ctx, r, i.Descriptor, e.Store(), transfer.Options{AtOnce: 1})
}

func (a *app) nameLoaded(s *state.State, i archive.Image) error {
	if i.Name == "" {
		if err := s.Images.Set(i.Descriptor, a.now()); err != nil {
			return err
		}
		return a.say("Loaded image ID: %s\n", i.Descriptor.Digest)
	}
	ref, err := reference.Parse(i.Name)
	if err != nil {
		return err
	}
	if err := s.Images.Set(i.Descriptor, a.now(), ref); err != nil {
		return err
	}
	return a.say("Loaded image: %s\n", ref.Familiar())
}
