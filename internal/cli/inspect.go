// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
)

func (a *app) inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [TAG]",
		Short: "print manifests and configs of the OCI layout",
		Args:  cobra.MaximumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.inspect(cmd.Context(), args) },
	}
}

func (a *app) inspect(ctx context.Context, args []string) error {
	l, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return err
	}
	defer l.Close()
	if len(args) == 1 {
		d, err := l.Resolve(ctx, args[0])
		if err != nil {
			return fmt.Errorf("bad descriptor %s: %w", args[0], err)
		}
		return a.inspectImage(ctx, l, args[0], d)
	}
	idx, err := l.Index()
	if err != nil {
		return err
	}
	for _, d := range idx.Manifests {
		if err := a.inspectImage(ctx, l, d.Annotations[ocispec.AnnotationRefName], d); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) inspectImage(ctx context.Context, l *layout.Layout, tag string, d ocispec.Descriptor) error {
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", tag, err)
	}
	config, err := l.Blobs().ReadAll(ctx, m.Config, image.MaxConfigSize)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintln(&out, tag)
	for i, layer := range m.Layers {
		fmt.Fprintf(&out, "\tlayer %d: %s... (%s, %s)\n", i, layer.Digest.Encoded()[:12], progress.Bytes(layer.Size), layer.MediaType)
	}
	if len(m.Annotations) > 0 {
		fmt.Fprintln(&out, "Annotations:")
		for _, k := range slices.Sorted(maps.Keys(m.Annotations)) {
			fmt.Fprintf(&out, "  %s: %s\n", k, m.Annotations[k])
		}
	}
	fmt.Fprintln(&out, "Image config:")
	if err := json.Indent(&out, config, "", "  "); err != nil {
		return fmt.Errorf("inspect %s: %w", tag, err)
	}
	out.WriteByte('\n')
	_, err = progress.NewSafeWriter(a.std.Out, false).Write(out.Bytes())
	return err
}
