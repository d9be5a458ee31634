// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layer/verity"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/mount"
)

// atomfsCommand mounts images whose layers are file systems. A build never does:
// only here, at the word of root, does the kernel see an image.
func (a *app) atomfsCommand() *cobra.Command {
	missing := false
	cmd := &cobra.Command{Use: "atomfs", Short: "mount images with squashfs or erofs layers", Args: cobra.ArbitraryArgs, RunE: func(*cobra.Command, []string) error {
		return errors.New("internal-go atomfs: name one of mount, umount and verify")
	}}
	mountIt := &cobra.Command{
		Use: "mount TAG DIRECTORY", Short: "show the files of an image of the OCI layout in a directory", Args: cobra.ExactArgs(2),
		Long: "mount verifies all layers of the image, each against its digest and its dm-verity root hash, and mounts them,\n" +
			"read-only. It needs root; as another user it unpacks the image into the directory, which must be empty or new.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.atomfsMount(cmd.Context(), args[0], args[1], missing)
		},
	}
	verify := &cobra.Command{
		Use: "verify TAG", Short: "compare the layers of an image with their digests and root hashes", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withLayers(cmd.Context(), args[0], missing, func([]fsLayer) error { return nil })
		},
	}
	for _, c := range []*cobra.Command{mountIt, verify} {
		c.Flags().BoolVar(&missing, "allow-missing-verity", false, "accept layers without a root hash")
	}
	cmd.AddCommand(mountIt, verify, &cobra.Command{
		Use: "umount DIRECTORY", Short: "undo mount", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return atomfsUmount(args[0]) },
	})
	return cmd
}

// fsLayer is a layer that a kernel can mount.
type fsLayer struct {
	file   *os.File
	fstype string
}

// withLayers opens and verifies the layers of an image, bottom first.
func (a *app) withLayers(ctx context.Context, tag string, missing bool, use func([]fsLayer) error) (err error) {
	l, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return err
	}
	defer l.Close()
	d, err := l.Resolve(ctx, tag)
	if err != nil {
		return fmt.Errorf("bad descriptor %s: %w", tag, err)
	}
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	var layers []fsLayer
	defer func() {
		for _, f := range layers {
			_ = f.file.Close() // read only
		}
	}()
	for _, d := range m.Layers {
		f, err := verified(ctx, l, d, missing)
		if err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		layers = append(layers, f)
	}
	return use(layers)
}

// verified opens a layer and reads all of it. It stays what it was as long as
// nobody writes to the layout.
func verified(ctx context.Context, l *layout.Layout, d ocispec.Descriptor, missing bool) (out fsLayer, err error) {
	t, ok := image.ParseLayerType(d.MediaType)
	if !ok || t.Archive == image.Tar {
		return out, fmt.Errorf("layer %s is of type %s, which cannot be mounted: build with --layer-type squashfs or erofs", d.Digest.Encoded()[:12], d.MediaType)
	}
	r, err := l.Open(ctx, d)
	if err != nil {
		return out, err
	}
	_, err = io.Copy(io.Discard, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return out, err
	}
	f, size, err := l.Blobs().File(d.Digest)
	if err != nil {
		return out, err
	}
	out = fsLayer{f, string(t.Archive)}
	if err := verifyTree(ctx, f, size, d.Annotations[export.RootHash], missing); err != nil {
		return out, errors.Join(fmt.Errorf("layer %s: %w", d.Digest.Encoded()[:12], err), f.Close())
	}
	return out, nil
}

func verifyTree(ctx context.Context, f *os.File, size int64, root string, missing bool) error {
	if root == "" && missing {
		return nil
	}
	if root == "" {
		return errors.New("it has no dm-verity root hash: it was made with --no-verity; --allow-missing-verity accepts it")
	}
	h, err := verity.ParseHash(root)
	if err != nil {
		return err
	}
	_, err = verity.Verify(ctx, f, size, h)
	return err
}

func (a *app) atomfsMount(ctx context.Context, tag, dir string, missing bool) error {
	if os.Geteuid() != 0 {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpack into %s: %w", dir, err)
		}
		return a.unpack(ctx, unpackOptions{output: dir}, "oci:"+a.settings.ociDir+":"+tag)
	}
	return a.withLayers(ctx, tag, missing, func(layers []fsLayer) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		target, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("open mount point: %w", err)
		}
		defer target.Close()
		m, err := stackLayers(layers)
		if err != nil {
			return fmt.Errorf("mount image %s: %w", tag, err)
		}
		defer m.Close()
		return mount.Attach(m, target)
	})
}

// stackLayers makes an overlay of layers. Kernels before 6.15 want the places of its
// parts in the tree of mounts, for a moment: the overlay keeps them afterwards.
func stackLayers(layers []fsLayer) (m *os.File, err error) {
	temp, err := os.MkdirTemp("", "stacker-atomfs-")
	if err != nil {
		return nil, err
	}
	var mounted []string
	defer func() {
		for _, dir := range slices.Backward(mounted) {
			err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
		if err == nil {
			err = os.RemoveAll(temp) // nothing is mounted there any more
		}
	}()
	empty := filepath.Join(temp, "empty") // an overlay has at least two layers
	if err := os.Mkdir(empty, 0o755); err != nil {
		return nil, err
	}
	lowers := []string{empty}
	for i, l := range layers {
		dir := filepath.Join(temp, strconv.Itoa(i))
		if err := attachLayer(l, dir); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		mounted = append(mounted, dir)
		lowers = append(lowers, dir)
	}
	return mount.Overlay(mount.OverlayOptions{Lowers: lowers})
}

func attachLayer(l fsLayer, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	target, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer target.Close()
	m, err := mount.Image(l.file, l.fstype)
	if err != nil {
		return err
	}
	defer m.Close()
	return mount.Attach(m, target)
}

// atomfsUmount takes an image away. What was unpacked is the user's to remove.
func atomfsUmount(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("unmount %s: no image is mounted there; one that was unpacked is removed with rm -r", dir)
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
