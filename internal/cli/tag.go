// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/reference"
)

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME...",
		Short: "give an image of the local store more names",
		Args:  cobra.MinimumNArgs(2),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.tag(cmd.Context(), args[0], args[1:]) },
	}
}

func (a *app) tag(ctx context.Context, what string, names []string) error {
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	img, err := s.Images.Find(ctx, what)
	if err != nil {
		return err
	}
	refs, err := newNames(names)
	if err != nil {
		return err
	}
	for i, ref := range refs {
		if err := s.Images.Set(img.Descriptor, a.now(), ref); err != nil {
			return err
		}
		if err := a.say("Successfully tagged %s as %s\n", what, names[i]); err != nil {
			return err
		}
	}
	return nil
}

// newNames parses names that images are to get.
func newNames(names []string) ([]reference.Reference, error) {
	var out []reference.Reference
	for _, n := range names {
		ref, err := reference.Parse(n)
		if err != nil {
			return nil, err
		}
		if ref.Digest != "" {
			return nil, fmt.Errorf("image name %q: a new name has a tag, not a digest", n)
		}
		out = append(out, ref)
	}
	return out, nil
}

// say prints what was done, unless the user wants silence.
func (a *app) say(format string, args ...any) error {
	if a.settings.quiet {
		return nil
	}
	_, err := fmt.Fprintf(a.messages(), format, args...)
	return err
}

type removeOptions struct{ force, all, insecure bool }

func (a *app) removeCommand() *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"rmi", "remove"},
		Short:   "remove images from the local store, or tags from a registry",
		Long: "rm takes names away. What no other name and no kept result needs goes with the next stacker prune.\n" +
			"rm docker://HOST/NAME:TAG removes a tag in a registry, where that can be done, and\n" +
			"rm docker://HOST/NAME@DIGEST an image with all of its tags.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.remove(cmd.Context(), o, args) },
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "pass over images that are not there; remove all names of an image given by its digest")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "remove all images")
	cmd.Flags().BoolVar(&o.insecure, "insecure-registry", false, "accept plain http and certificates that cannot be verified")
	return cmd
}

func (a *app) remove(ctx context.Context, o removeOptions, names []string) error {
	if (len(names) == 0) == !o.all {
		return errors.New("say which images to remove, or --all")
	}
	names, remote, err := splitRemote(names)
	if err != nil {
		return err
	}
	for _, ref := range remote {
		if err := a.removeRemote(ctx, o, ref); err != nil {
			return err
		}
	}
	if len(names) == 0 && !o.all {
		return nil
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	if o.all {
		return a.removeImages(s.Images, func() ([]images.Image, error) { return s.Images.List() })
	}
	for _, n := range names {
		err := a.removeImages(s.Images, func() ([]images.Image, error) { return named(ctx, s.Images, n, o.force) })
		if err != nil && !(o.force && errors.Is(err, images.ErrNotFound)) {
			return fmt.Errorf("removing image failed: %w", err)
		}
	}
	return nil
}

// named lists what a name or the beginning of a digest means for removal.
func named(ctx context.Context, store *images.Store, what string, force bool) ([]images.Image, error) {
	img, err := store.Find(ctx, what)
	if err != nil {
		return nil, err
	}
	if ref, err := reference.Parse(what); err == nil && ref.String() == img.Name {
		return []images.Image{img}, nil
	}
	all, err := store.List()
	if err != nil {
		return nil, err
	}
	var same []images.Image
	for _, i := range all {
		if i.Descriptor.Digest == img.Descriptor.Digest {
			same = append(same, i)
		}
	}
	if len(same) > 1 && !force {
		return nil, fmt.Errorf("image %s has several names, like %s and %s: give names, or --force", what, same[0], same[1])
	}
	return same, nil
}

func (a *app) removeImages(store *images.Store, which func() ([]images.Image, error)) error {
	list, err := which()
	if err != nil {
		return err
	}
	for _, i := range list {
		if err := a.say("Removing %s...\n", i); err != nil {
			return err
		}
		if err := store.Remove(i); err != nil {
			return err
		}
		if err := a.say("Successfully removed %s\n", i); err != nil {
			return err
		}
	}
	return nil
}
