// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
)

// remoteName parses what rm is to remove in a registry; ok is false for names of the
// local store. What has to go is said: there is no default tag.
func remoteName(what string) (ref reference.Reference, ok bool, err error) {
	name, ok := strings.CutPrefix(what, string(inRegistry))
	if !ok {
		return ref, false, nil
	}
	if ref, err = reference.Parse(name); err != nil {
		return ref, true, err
	}
	if ref.Digest == "" && !strings.HasSuffix(name, ":"+ref.Tag) {
		return ref, true, fmt.Errorf("%s: say which tag to remove, or which image: %s%s:TAG or @DIGEST", what, inRegistry, ref.Name())
	}
	return ref, true, nil
}

// splitRemote takes the names of images in registries out of names.
func splitRemote(names []string) (local []string, remote []reference.Reference, err error) {
	for _, n := range names {
		ref, ok, err := remoteName(n)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			remote = append(remote, ref)
		} else {
			local = append(local, n)
		}
	}
	return local, remote, nil
}

// removeRemote removes a tag in a registry, or an image with all of its tags where
// its digest is given.
func (a *app) removeRemote(ctx context.Context, o removeOptions, ref reference.Reference) error {
	c := registry.New(registryOptions(o.insecure))
	defer c.Close()
	remove := c.DeleteTag
	if ref.Digest != "" {
		ref.Tag, remove = "", c.DeleteManifest
	}
	err := remove(ctx, ref)
	if errors.Is(err, registry.ErrNotFound) && o.force {
		return nil
	}
	if errors.Is(err, registry.ErrUnsupported) && ref.Digest == "" {
		return fmt.Errorf("%w: that is stacker rm %s%s@DIGEST", err, inRegistry, ref.Name())
	}
	if err != nil {
		return err
	}
	return a.say("Successfully removed %s%s\n", inRegistry, ref)
}
