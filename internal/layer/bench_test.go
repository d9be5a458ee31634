// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// writeBigLayer writes a layer like a development image's: files files in
// files/8 directories, most of them small, 28 KB on average.
func writeBigLayer(tb testing.TB, w io.Writer, files int) {
	tb.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	tw := tar.NewWriter(w)
	put := func(hdr *tar.Header) {
		hdr.ModTime = time.Unix(1700000000, 0)
		if err := tw.WriteHeader(hdr); err != nil {
			tb.Fatal(err)
		}
	}
	for i := range files {
		if i%8 == 0 {
			put(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%04d/", i/8), Mode: 0o755})
		}
		size := rnd.IntN(8 << 10)
		if i%20 == 0 {
			size = 256<<10 + rnd.IntN(512<<10)
		}
		put(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%04d/f%d", i/8, i%8), Mode: 0o644, Size: int64(size)})
		off := rnd.IntN(len(noise) - size)
		if _, err := tw.Write(noise[off : off+size]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
}

// bigLayer is a layer of 25,000 files in a file; TMPDIR says on which file system.
func bigLayer(b *testing.B) (name string, size int64) {
	b.Helper()
	name = filepath.Join(b.TempDir(), "layer.tar")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	writeBigLayer(b, f, 25000)
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return name, st.Size()
}

func applyFile(tb testing.TB, name, dir string) ApplyResult {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	res, err := Apply(context.Background(), dir, f, ApplyOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// BenchmarkApply compares Apply with the least that any unpacker in Go does:
// parse, create, write.
func BenchmarkApply(b *testing.B) {
	name, size := bigLayer(b)
	for _, v := range []struct {
		name   string
		unpack func(dir string)
	}{
		{"least", func(dir string) { leastUnpack(b, name, dir) }},
		{"Apply", func(dir string) { applyFile(b, name, dir) }},
	} {
		b.Run(v.name, func(b *testing.B) {
			b.SetBytes(size)
			dir := filepath.Join(b.TempDir(), "tree")
			for b.Loop() {
				b.StopTimer()
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				v.unpack(dir)
			}
		})
	}
}

// leastUnpack trusts the archive and sets nothing.
func leastUnpack(tb testing.TB, name, dir string) {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, copyBuffer)
	tr := tar.NewReader(f)
	for {
		hdr, err := tr.Next()
		if err != nil {
			return
		}
		p := dir + "/" + hdr.Name
		if hdr.Typeflag == tar.TypeDir {
			if err := os.Mkdir(p, 0o755); err != nil {
				tb.Fatal(err)
			}
			continue
		}
		out, err := os.Create(p)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, tr, buf); err != nil {
			tb.Fatal(err)
		}
		if err := out.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	name, size := bigLayer(b)
	dir := b.TempDir()
	want := applyFile(b, name, dir)
	b.SetBytes(size)
	for b.Loop() {
		got, err := Diff(context.Background(), nil, dir, DiffOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if got.DiffID != want.DiffID {
			b.Fatalf("diffID = %s, want %s", got.DiffID, want.DiffID)
		}
	}
}
