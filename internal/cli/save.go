// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

type saveOptions struct{ output, format, platform string }

func (a *app) saveCommand() *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "save IMAGE...",
		Short: "write images to an archive",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.save(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "file to write (default: the standard output)")
	f.StringVar(&o.format, "format", "docker", "docker (docker load reads it) or oci")
	f.StringVar(&o.platform, "platform", "", "OS/ARCH[/VARIANT] to take of images for several platforms (default: all with --format oci, this machine's with docker)")
	return cmd
}

func (a *app) save(ctx context.Context, o saveOptions, names []string) error {
	if o.format != "docker" && o.format != "oci" {
		return fmt.Errorf("--format %s: it is docker or oci", o.format)
	}
	toStdout := o.output == "" || o.output == export.Stdout
	if toStdout && term.IsTerminal(int(a.std.Out.Fd())) {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	a.stdoutTaken = toStdout
	return a.transferring(ctx, func(_ *state.State, e *export.Exporter) error {
		var list []export.Listed
		for _, n := range names {
			l, err := parseLocation(n)
			if err != nil {
				return err
			}
			f, err := a.find(ctx, e, l, false)
			if err != nil {
				return fmt.Errorf("save %s: %w", n, err)
			}
			defer f.close()
			item, err := o.item(ctx, f, n)
			if err != nil {
				return fmt.Errorf("save %s: %w", n, err)
			}
			list = add(list, item)
		}
		if toStdout {
			return export.WriteArchive(ctx, "", a.std.Out, o.format == "docker", list)
		}
		return export.WriteArchive(ctx, o.output, nil, o.format == "docker", list)
	})
}

// add lists an image, or gives one that is listed more names.
func add(list []export.Listed, item export.Listed) []export.Listed {
	for i := range list {
		if list[i].Image.Digest == item.Image.Digest {
			list[i].Names = append(list[i].Names, item.Names...)
			return list
		}
	}
	return append(list, item)
}

// item chooses what of an image is saved. It keeps the name by which it was asked
// for, not that of an image asked for by its digest.
func (o saveOptions) item(ctx context.Context, f found, what string) (export.Listed, error) {
	item := export.Listed{
		Source: f.Source, Image: ocispec.Descriptor{MediaType: f.image.MediaType, Digest: f.image.Digest, Size: f.image.Size},
	}
	if ref, err := reference.Parse(what); err == nil && ref.Digest == "" {
		if shown, err := reference.Parse(f.name); err == nil && shown == ref {
			item.Names = []string{ref.String()}
		}
	}
	want := image.HostPlatform()
	if o.platform != "" {
		var err error
		if want, err = image.ParsePlatform(o.platform); err != nil {
			return item, fmt.Errorf("--platform: %w", err)
		}
	}
	if image.IsIndex(item.Image.MediaType) && (o.format == "docker" || o.platform != "") {
		d, err := transfer.Choose(ctx, f, item.Image, want)
		item.Image = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
		return item, err
	}
	return item, nil
}
