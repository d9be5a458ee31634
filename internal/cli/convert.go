// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/frontend/convert"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/source"
)

type convertOptions struct {
	dockerfile, output, substitutes, buildContext string
	drop                                          []string
	skipTLS                                       bool
}

func (a *app) convertCommand() *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert",
		Short: "write the stacker.yaml that builds the same image as a Dockerfile",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.convert(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.dockerfile, "docker-file", "i", "Dockerfile", "the Dockerfile to read")
	f.StringVarP(&o.output, "output-file", "o", "stacker.yaml", "the build file to write")
	f.StringVarP(&o.substitutes, "substitute-file", "s", "stacker-subs.yaml", "the file to write the defaults of substitutions to")
	f.StringVar(&o.buildContext, "context", "", "the build context; default: the directory of the Dockerfile")
	f.StringArrayVar(&o.drop, "drop", nil, "an instruction to leave out where stacker.yaml has no word for it, such as EXPOSE (repeatable)")
	f.BoolVar(&o.skipTLS, "skip-tls", false, "allow plain http and unverified TLS for base images, now and in the build file")
	return cmd
}

func (a *app) convert(ctx context.Context, o convertOptions) error {
	data, err := atomicfile.ReadRegular(o.dockerfile, dockerfileLimit)
	if err != nil {
		return fmt.Errorf("read Dockerfile: %w", err)
	}
	if o.buildContext == "" {
		o.buildContext = filepath.Dir(o.dockerfile)
	}
	outDir, err := filepath.Abs(filepath.Dir(o.output))
	if err != nil {
		return fmt.Errorf("find output file: %w", err)
	}
	in := convert.Input{Name: o.dockerfile, Dockerfile: data, Drop: upper(o.drop), Insecure: o.skipTLS, Base: a.convertBase}
	if in.Context, err = filepath.Abs(o.buildContext); err != nil {
		return fmt.Errorf("find build context: %w", err)
	}
	if in.ContextPath, err = filepath.Rel(outDir, in.Context); err != nil {
		return fmt.Errorf("find build context: %w", err)
	}
	out, err := convert.Dockerfile(ctx, in)
	if err != nil {
		return err
	}
	for _, note := range out.Notes {
		fmt.Fprintln(a.std.Err, note)
	}
	if err := atomicfile.Write(o.output, out.File, 0o644, atomicfile.Sync); err != nil {
		return err
	}
	return atomicfile.Write(o.substitutes, out.Substitutes, 0o644, atomicfile.Sync)
}

func upper(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ToUpper(n)
	}
	return out
}

// convertBase reads the config of a base image, of this machine's platform, from the local
// store or else from a registry, as FROM does.
func (a *app) convertBase(ctx context.Context, name string, insecure bool) (convert.Base, error) {
	s, err := a.openState(ctx)
	if err != nil {
		return convert.Base{}, err
	}
	img, err := a.images(s).Resolve(ctx, name, insecure, image.HostPlatform())
	if err != nil {
		return convert.Base{}, err
	}
	c := img.Config.Config
	return convert.Base{
		Env: c.Env, User: c.User, WorkingDir: c.WorkingDir, Shell: c.Shell, OnBuild: c.OnBuild,
		Local: strings.HasPrefix(img.Origin, source.StorePrefix),
	}, nil
}
