// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/source"
)

type unpackOptions struct{ output, platform string }

func (a *app) unpackCommand() *cobra.Command {
	var o unpackOptions
	cmd := &cobra.Command{
		Use:   "unpack IMAGE",
		Short: "put the files of an image into a new directory",
		Long: "unpack writes the files as the user's own and keeps their modes, without set-user-id bits, and their\n" +
			"user.* attributes; for root their capabilities, too. Devices are left out. What was not kept is told.\n" +
			"Without --output, and with tags of the OCI layout or without arguments, it is unlade.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("output") && a.tagsOfLayout(cmd.Context(), args) {
				return a.unlade(cmd.Context(), args)
			}
			if len(args) != 1 {
				return errors.New("unpack takes one image: give its name")
			}
			return a.unpack(cmd.Context(), o, args[0])
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "rootfs", "directory to make")
	cmd.Flags().StringVar(&o.platform, "platform", "", "OS/ARCH[/VARIANT] of the image (default: this machine's)")
	return cmd
}

// tagsOfLayout tells whether all words are tags of the project's OCI layout.
func (a *app) tagsOfLayout(ctx context.Context, words []string) bool {
	l, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return len(words) == 0
	}
	defer l.Close()
	for _, w := range words {
		if _, err := l.Resolve(ctx, w); err != nil {
			return false
		}
	}
	return true
}

func (a *app) unpack(ctx context.Context, o unpackOptions, what string) error {
	want := image.HostPlatform()
	if o.platform != "" {
		var err error
		if want, err = image.ParsePlatform(o.platform); err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
	}
	if _, err := os.Lstat(o.output); err == nil {
		return fmt.Errorf("unpack: %s exists: remove it, or choose another directory with --output", o.output)
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	l, err := parseLocation(what)
	if err != nil {
		return err
	}
	b := a.builder(ctx, s)
	var img source.Image
	switch l.transport {
	case inStore:
		found, ferr := s.Images.Find(ctx, what)
		if ferr != nil {
			return ferr
		}
		img, err = b.Images.Named(ctx, found, want)
	case inRegistry, inLayout:
		img, err = b.Images.Resolve(ctx, what, false, want)
	case inDir, inDockerArchive, inOCIArchive:
		return fmt.Errorf("unpack %s: pull it into the local store first", what)
	}
	if err != nil {
		return err
	}
	var lost build.Lost
	if err := a.unpackLayers(ctx, func(dir string) (err error) {
		lost, err = b.UnpackTo(ctx, layersOf(img), dir, build.UnpackOptions{Capabilities: os.Geteuid() == 0})
		return err
	}, o.output); err != nil {
		return fmt.Errorf("unpack %s: %w", what, err)
	}
	if err := a.say("Successfully unpacked rootfs for %s to: %s\n", what, o.output); err != nil {
		return err
	}
	if text := lost.String(); text != "" {
		return a.say("not kept: %s\n", text)
	}
	return nil
}

// unpackLayers fills a directory beside the one wanted, so that this appears whole.
func (a *app) unpackLayers(_ context.Context, fill func(dir string) error, to string) error {
	temp, err := os.MkdirTemp(filepath.Dir(to), ".stacker-unpack-")
	if err != nil {
		return err
	}
	err = fill(temp)
	if err == nil {
		err = os.Chmod(temp, 0o755)
	}
	if err == nil {
		err = os.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(err, removeTree(temp))
	}
	return nil
}

// layersOf are the layers of an image that was found.
func layersOf(img source.Image) []cache.Layer {
	var out []cache.Layer
	for i, d := range img.Document.Layers {
		out = append(out, cache.Layer{DiffID: img.Config.RootFS.DiffIDs[i], Blob: &d, Origin: img.Origin, Insecure: img.Insecure})
	}
	return out
}
