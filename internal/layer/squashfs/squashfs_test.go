// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/layertest"
)

// write makes an image of an archive, in a file.
func write(tb testing.TB, archive []byte, o Options) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	res, err := Write(context.Background(), f, layer.FromArchive(bytes.NewReader(archive)), o)
	if err != nil {
		tb.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	if st.Size() != res.Size || res.Size%4096 != 0 {
		tb.Fatalf("the image has %d bytes, the result says %d", st.Size(), res.Size)
	}
	return path
}

// read makes an archive of an image.
func read(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	archive, err := unpack(b)
	if err != nil {
		tb.Fatal(err)
	}
	return archive
}

func unpack(image []byte) ([]byte, error) {
	img, err := Open(bytes.NewReader(image), int64(len(image)), Limits{})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = layer.ToArchive(context.Background(), &out, img.Entries(context.Background()))
	return out.Bytes(), err
}

func TestRoundTrip(t *testing.T) {
	want := layertest.Archive(t, layertest.Tree(t))
	for name, o := range map[string]Options{
		"zstd": {}, "gzip": {Compression: Gzip}, "4K": {BlockSize: 4096}, "1M": {BlockSize: 1 << 20, Compression: Gzip},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, want, o)
			layertest.Same(t, read(t, path), want)

			t.Run("unsquashfs", func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "tree")
				layertest.Run(t, "unsquashfs", "-d", out, path)
				layertest.Same(t, layertest.Archive(t, out), want)
			})
			t.Run("kernel", func(t *testing.T) {
				layertest.Same(t, layertest.Archive(t, layertest.Mount(t, path, "squashfs")), want)
			})
		})
	}
}

// The kernel finds names by the index of a long directory.
func TestLookup(t *testing.T) {
	tree := layertest.Tree(t)
	dir := layertest.Mount(t, write(t, layertest.Archive(t, tree), Options{}), "squashfs")
	names, err := os.ReadDir(filepath.Join(tree, "large"))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range names {
		if i%53 != 0 && i < len(names)-3 {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "large", e.Name())); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "large", e.Name()+"x")); !os.IsNotExist(err) {
			t.Fatalf("%sx: %v", e.Name(), err)
		}
	}
}

func TestMksquashfs(t *testing.T) {
	tree := layertest.Tree(t)
	want := layertest.Archive(t, tree)
	for name, options := range map[string][]string{
		"gzip": {"-comp", "gzip"}, "zstd": {"-comp", "zstd", "-Xcompression-level", "3"}, "xz": {"-comp", "xz"}, "lz4": {"-comp", "lz4", "-Xhc"}, "plain": {"-noI", "-noD", "-noF", "-noX"},
		"no fragments": {"-comp", "gzip", "-no-fragments"}, "tail ends": {"-comp", "zstd", "-Xcompression-level", "1", "-tailends"},
		"4K": {"-b", "4096", "-comp", "gzip"}, "1M": {"-b", "1M", "-comp", "gzip"}, "no duplicates": {"-comp", "gzip", "-no-duplicates", "-no-exports"},
		"small": {"-comp", "gzip", "-Xwindow-size", "8", "-Xstrategy", "huffman_only"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			layertest.Run(t, "mksquashfs", append([]string{tree, path, "-no-progress", "-quiet"}, options...)...)
			layertest.Same(t, read(t, path), want)
		})
	}
}
