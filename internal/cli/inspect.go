// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/transfer"
)

func (a *app) inspectCommand() *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [TAG|IMAGE...]",
		Short: "print an image's config, or what the OCI layout has",
		Long: "inspect prints manifests and configs of the OCI layout: of all images, or of one by its tag. Another name is\n" +
			"an image of the local store, docker://NAME, oci:DIRECTORY:TAG, docker-archive:FILE, oci-archive:FILE or\n" +
			"dir:DIRECTORY: its config is printed as JSON.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o == (inspectOptions{}) && len(args) < 2 && a.tagsOfLayoutOnly(cmd.Context(), args) {
				return a.inspect(cmd.Context(), args)
			}
			if len(args) == 0 {
				return errors.New("say which image to inspect")
			}
			for _, name := range args {
				if err := a.inspectNamed(cmd.Context(), o, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.raw, "raw", false, "print the manifest or index as it is")
	cmd.Flags().StringVarP(&o.format, "format", "f", "", "json, or a Go template of the config's members, like {{.Config.Env}}")
	cmd.Flags().StringVar(&o.platform, "platform", "", "OS/ARCH[/VARIANT] of the image (default: this machine's)")
	return cmd
}

type inspectOptions struct {
	raw              bool
	format, platform string
}

// tagsOfLayoutOnly tells whether the words are for the OCI layout: none, a tag of it,
// or a word that nothing else could be.
func (a *app) tagsOfLayoutOnly(ctx context.Context, words []string) bool {
	if len(words) == 0 || a.tagsOfLayout(ctx, words) {
		return true
	}
	if l, err := parseLocation(words[0]); err != nil || l.transport != inStore {
		return false
	}
	s, err := a.openState(ctx)
	if err != nil {
		return false
	}
	if _, err := s.Images.Find(ctx, words[0]); err == nil {
		return false
	}
	_, err = os.Stat(a.settings.ociDir)
	return err == nil // its error names the tags that there are
}

// inspectNamed prints one image's config, with tabs as img did.
func (a *app) inspectNamed(ctx context.Context, o inspectOptions, name string) error {
	want := image.HostPlatform()
	if o.platform != "" {
		var err error
		if want, err = image.ParsePlatform(o.platform); err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
	}
	return a.looking(ctx, name, func(f found) error {
		var out bytes.Buffer
		if err := o.describe(ctx, &out, f, want); err != nil {
			return fmt.Errorf("inspect %s: %w", name, err)
		}
		_, err := progress.NewSafeWriter(a.std.Out, false).Write(out.Bytes())
		return err
	})
}

func (o inspectOptions) describe(ctx context.Context, out *bytes.Buffer, f found, want image.Platform) error {
	if o.raw {
		data, err := transfer.ReadAll(ctx, f, f.image, image.MaxManifestSize)
		out.Write(data)
		return err
	}
	d, err := transfer.Choose(ctx, f, f.image, want)
	if err != nil {
		return err
	}
	m, err := transfer.ReadManifest(ctx, f, d)
	if err != nil {
		return err
	}
	raw, c, err := transfer.ReadConfig(ctx, f, m)
	if err != nil {
		return err
	}
	if o.format != "" && o.format != "json" {
		return printTemplate(out, o.format, []image.Config{c})
	}
	if err := json.Indent(out, raw, "", "\t"); err != nil {
		return err
	}
	return out.WriteByte('\n')
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
	if m.Subject != nil {
		return a.inspectReferrer(m)
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

// inspectReferrer prints what an entry is that is about an image.
func (a *app) inspectReferrer(m ocispec.Manifest) error {
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType // image-spec 1.0
	}
	_, err := fmt.Fprintf(progress.NewSafeWriter(a.std.Out, false), "%s about %s...\n", kind, m.Subject.Digest.Encoded()[:12])
	return err
}
