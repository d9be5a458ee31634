// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/pflag"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
)

// layerOptions say of what type the layers of images are. Each type makes an image
// of its own: NAME, NAME-squashfs, NAME-erofs.
type layerOptions struct {
	types       []string
	compression string
	noVerity    bool
	archives    []image.Archive // types, each once; set by check
}

func (o *layerOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.types, "layer-type", []string{"tar"}, "type of the layers: tar, squashfs or erofs (may be repeated: one image for each)")
	f.StringVar(&o.compression, "layer-compression", "gzip", "compression of tar layers: gzip, zstd or none")
	f.BoolVar(&o.noVerity, "no-verity", false, "make squashfs and erofs layers without dm-verity")
	f.BoolVar(&o.noVerity, "no-squashfs-verity", false, "the same as --no-verity")
}

// check refuses unknown types and compressions.
func (o *layerOptions) check() error {
	switch compress.Algorithm(o.compression) {
	case compress.Gzip, compress.Zstd, compress.None:
	default:
		return fmt.Errorf("--layer-compression %s: it is gzip, zstd or none", o.compression)
	}
	o.archives = nil
	for _, t := range o.types {
		a := image.Archive(t)
		switch a {
		case image.Tar, image.Squashfs, image.Erofs:
		default:
			return fmt.Errorf("unknown layer type: %s", t)
		}
		if !slices.Contains(o.archives, a) {
			o.archives = append(o.archives, a)
		}
	}
	return nil
}

// checkNames refuses a stage whose name is that of another's image of some type.
func (o *layerOptions) checkNames(g *graph.Build) error {
	of := map[string]string{}
	for _, t := range g.Targets {
		if t.BuildOnly {
			continue
		}
		for _, a := range o.archives {
			tag := t.Name + export.Suffix(a)
			if other, ok := of[tag]; ok {
				return fmt.Errorf("--layer-type: stages %s and %s would both make the image %s: rename one", other, t.Name, tag)
			}
			of[tag] = t.Name
		}
	}
	return nil
}

func (o *layerOptions) options() export.LayerOptions {
	return export.LayerOptions{Compression: compress.Algorithm(o.compression), NoVerity: o.noVerity}
}
