// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// sizes are numbers of blocks at which the shape of the tree changes.
var sizes = []int{1, 2, 127, 128, 129, 1000, 128*128 + 1}

// image makes a file of random blocks.
func image(tb testing.TB, blocks int) *os.File {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	data := make([]byte, blocks*BlockSize)
	_, _ = rand.NewChaCha8([32]byte{byte(blocks)}).Read(data) // never fails
	if _, err := f.Write(data); err != nil {
		tb.Fatal(err)
	}
	return f
}

func appendTo(tb testing.TB, f *os.File, blocks int) Tree {
	tb.Helper()
	tree, err := Append(context.Background(), f, int64(blocks)*BlockSize)
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

// veritysetup returns the tool's path.
func veritysetup(tb testing.TB) string {
	tb.Helper()
	for _, name := range []string{"veritysetup", "/usr/sbin/veritysetup", "/sbin/veritysetup"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal("needs veritysetup of cryptsetup-bin")
	}
	tb.Skip("needs veritysetup of cryptsetup-bin")
	return ""
}

func TestAppendVerify(t *testing.T) {
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := image(t, n)
			tree := appendTo(t, f, n)
			all, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(all)) != tree.Size || digest.FromBytes(all) != tree.Digest {
				t.Errorf("file has %d bytes and %s, Append said %d and %s", len(all), digest.FromBytes(all), tree.Size, tree.Digest)
			}
			if data, err := Verify(context.Background(), f, tree.Size, tree.Root); err != nil || data != int64(n)*BlockSize {
				t.Errorf("Verify: %d, %v, want %d", data, err, n*BlockSize)
			}
			again := image(t, n)
			if second := appendTo(t, again, n); second != tree {
				t.Errorf("the same data again: %v, want %v", second, tree)
			}
		})
	}
}

// TestVeritysetup compares with the tool: it accepts our trees, and makes the same
// from the same salt and UUID.
func TestVeritysetup(t *testing.T) {
	tool := veritysetup(t)
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := image(t, n)
			tree := appendTo(t, f, n)
			offset := fmt.Sprint(n * BlockSize)
			out, err := exec.Command(tool, "verify", "--hash-offset="+offset, f.Name(), f.Name(), tree.Root.String()).CombinedOutput()
			if err != nil {
				t.Errorf("veritysetup verify: %v\n%s", err, out)
			}
			ours, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			sb, err := decodeSuperblock(ours[n*BlockSize:])
			if err != nil {
				t.Fatal(err)
			}
			g := image(t, n)
			id := sb.uuid
			out, err = exec.Command(tool, "format", "--hash-offset="+offset, "--data-blocks="+fmt.Sprint(n),
				"--salt="+hex.EncodeToString(sb.salt), fmt.Sprintf("--uuid=%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
				g.Name(), g.Name()).CombinedOutput()
			if err != nil {
				t.Fatalf("veritysetup format: %v\n%s", err, out)
			}
			theirs, err := os.ReadFile(g.Name())
			if err != nil {
				t.Fatal(err)
			}
			// The tool writes only the 512 bytes of the superblock that are used.
			theirs = append(theirs, make([]byte, max(0, len(ours)-len(theirs)))...)
			if !bytes.Equal(ours, theirs) {
				t.Error("veritysetup format made another tree")
			}
			if !bytes.Contains(out, []byte(tree.Root.String())) {
				t.Errorf("veritysetup format: root hash is not %s:\n%s", tree.Root, out)
			}
		})
	}
}

// TestVerifyFinds changes one byte at every place that matters.
func TestVerifyFinds(t *testing.T) {
	const n = 300
	f := image(t, n)
	tree := appendTo(t, f, n)
	good, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	places := []int{0, 4095, 150 * BlockSize, n*BlockSize - 1}
	for at := (n + 1) * BlockSize; at < len(good); at += 1000 {
		places = append(places, at)
	}
	places = append(places, n*BlockSize+90, len(good)-1) // the salt; zeros behind the last hash
	for _, at := range places {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if _, err := Verify(context.Background(), bytes.NewReader(bad), tree.Size, tree.Root); !errors.Is(err, ErrMismatch) {
			t.Errorf("byte %d changed: error %v, want %v", at, err, ErrMismatch)
		}
	}
	wrong := tree.Root
	wrong[31] ^= 1
	if _, err := Verify(context.Background(), bytes.NewReader(good), tree.Size, wrong); !errors.Is(err, ErrMismatch) {
		t.Errorf("another root hash: error %v, want %v", err, ErrMismatch)
	}
	for _, cut := range []int{1, BlockSize, 4 * BlockSize, len(good)} {
		if _, err := Verify(context.Background(), bytes.NewReader(good[cut:]), tree.Size-int64(cut), tree.Root); err == nil {
			t.Errorf("%d bytes cut off: no error", cut)
		}
	}
	if _, err := Verify(context.Background(), bytes.NewReader(good[:len(good)-BlockSize]), tree.Size, tree.Root); err == nil {
		t.Error("shorter than said: no error")
	}
}

func TestAppendRefuses(t *testing.T) {
	for _, size := range []int64{0, -BlockSize, 1, BlockSize + 1} {
		if _, err := Append(context.Background(), image(t, 2), size); err == nil {
			t.Errorf("image of %d bytes: no error", size)
		}
	}
	if _, err := Append(context.Background(), image(t, 2), 3*BlockSize); err == nil {
		t.Error("image shorter than said: no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Append(ctx, image(t, 2), 2*BlockSize); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: error %v, want %v", err, context.Canceled)
	}
}

func TestDataSize(t *testing.T) {
	for n := int64(1); n < 40000; n += 1 + n/100 {
		total := n*BlockSize + Size(n*BlockSize)
		if data, ok := DataSize(total); !ok || data != n*BlockSize {
			t.Errorf("DataSize of %d blocks with tree: %d, %v", n, data, ok)
		}
	}
	for _, size := range []int64{-1, 0, 1, BlockSize, 3 * BlockSize, 5*BlockSize + 1} {
		if data, ok := DataSize(size); ok {
			t.Errorf("DataSize(%d) = %d, want none", size, data)
		}
	}
}

func TestParseHash(t *testing.T) {
	h := Hash{1, 2, 0xfe}
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("ParseHash(%s) = %v, %v", h, got, err)
	}
	for _, s := range []string{"", "12", h.String() + "0", "zz" + h.String()[2:]} {
		if _, err := ParseHash(s); err == nil {
			t.Errorf("ParseHash(%q): no error", s)
		}
	}
}

// FuzzVerify gives Verify images that nobody checked. The superblock is kept
// valid often enough by starting from one that is.
func FuzzVerify(f *testing.F) {
	img := image(f, 3)
	tree := appendTo(f, img, 3)
	good, err := os.ReadFile(img.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[3*BlockSize:], uint16(3))
	f.Add(good[:0], uint16(1))
	f.Fuzz(func(t *testing.T, tail []byte, blocks uint16) {
		data := make([]byte, int(blocks%300)*BlockSize)
		file := append(data, tail...)
		if _, err := Verify(context.Background(), bytes.NewReader(file), int64(len(file)), tree.Root); err == nil {
			t.Error("zeros were accepted for the root hash of something else")
		}
	})
}
