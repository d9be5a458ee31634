// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

const benchSize = 128 << 20

// benchData is a tar of the system's libraries and documents, in memory, up to benchSize; generated data where there
// are few.
func benchData(b *testing.B) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"/usr/include", "/usr/lib", "/usr/bin", "/usr/share"} {
		stop := out.Len() + benchSize/4
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			if out.Len() > stop {
				return fs.SkipAll
			}
			data, err := os.ReadFile(path)
			if err != nil || len(data) > benchSize/16 {
				return nil
			}
			if err := w.WriteHeader(&tar.Header{Name: path, Size: int64(len(data)), Mode: 0o644}); err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if out.Len() < benchSize/4 {
		return tarLike(benchSize)
	}
	return out.Bytes()
}

func BenchmarkGunzip(b *testing.B) {
	data := benchData(b)
	packed := run(b, data, "gzip", "-6", "-n")
	decoders := []struct {
		name string
		open func(io.Reader) (io.Reader, error)
	}{
		{"own", func(r io.Reader) (io.Reader, error) { return NewReaderFor(Gzip, r) }},
		{"klauspost", func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(r) }},
		{"stdlib", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	}
	for _, d := range decoders {
		b.Run(d.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := d.open(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				// Nothing but Read, as archive/tar does it.
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 64<<10))
				if err != nil || n != int64(len(data)) {
					b.Fatal(n, err)
				}
				if c, ok := r.(io.Closer); ok {
					c.Close()
				}
			}
		})
	}
}

func BenchmarkUnzstd(b *testing.B) {
	data := benchData(b)
	for name, packed := range map[string][]byte{
		"own frames": pack(b, data, Zstd, WriterOptions{}),
		"one frame":  run(b, data, "zstd", "-3", "-q"),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := NewReaderFor(Zstd, bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
					b.Fatal(n, err)
				}
				r.Close()
			}
		})
	}
}

// BenchmarkCompress compares with the usual programs. The metric "out/in" is the size of the result.
func BenchmarkCompress(b *testing.B) {
	data := benchData(b)
	report := func(b *testing.B, n int) { b.ReportMetric(float64(n)/float64(len(data)), "out/in") }
	for _, a := range []Algorithm{Gzip, Zstd} {
		b.Run(string(a), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var c countingWriter
				w, err := NewWriter(&c, a, WriterOptions{})
				if err != nil {
					b.Fatal(err)
				}
				src := struct{ io.Reader }{bytes.NewReader(data)}
				if _, err := io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, 64<<10)); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
				report(b, int(c))
			}
		})
	}
	for _, argv := range [][]string{{"pigz", "-6", "-p2"}, {"zstd", "-3", "-T0", "-q"}} {
		b.Run("program "+argv[0], func(b *testing.B) {
			if _, err := exec.LookPath(argv[0]); err != nil {
				b.Skip(err)
			}
			b.SetBytes(int64(len(data)))
			in := filepath.Join(b.TempDir(), "data.tar")
			if err := os.WriteFile(in, data, 0o600); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				out := run(b, nil, argv[0], append(argv[1:], "-c", in)...)
				report(b, len(out))
			}
		})
	}
}

type countingWriter int64

// Write counts p.
func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}
