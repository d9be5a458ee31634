// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
)

func TestWriteForeign(t *testing.T) {
	data := tarLike(zstdBlock + 3*gzipBlock + 5)
	programs := map[Algorithm][]string{Gzip: {"gzip", "pigz"}, Zstd: {"zstd"}, None: {"cat"}}
	for a, names := range programs {
		for _, name := range names {
			for _, n := range []int{0, 1, 1000, gzipBlock, gzipBlock + 1, zstdBlock, len(data)} {
				t.Run(fmt.Sprint(name, n), func(t *testing.T) {
					packed := pack(t, data[:n], a, WriterOptions{})
					argv := []string{"-d", "-c"}
					if a == None {
						argv = nil
					}
					if got := run(t, packed, name, argv...); !bytes.Equal(got, data[:n]) {
						t.Errorf("got %d bytes", len(got))
					}
					got, err := decode(t, a, packed)
					if err != nil || !bytes.Equal(got, data[:n]) {
						t.Errorf("read back: got %d bytes, error %v", len(got), err)
					}
				})
			}
		}
	}
}

func TestGzipHeader(t *testing.T) {
	packed := pack(t, []byte("text"), Gzip, WriterOptions{})
	if want := "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"; string(packed[:10]) != want {
		t.Errorf("got %q, want %q", packed[:10], want)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	if got, err := io.ReadAll(r); err != nil || string(got) != "text" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestDeterministic compares what different numbers of workers and sizes of writes give. It
// goes through one encoder's state several times, which must leave no trace.
func TestDeterministic(t *testing.T) {
	data := tarLike(2*zstdBlock + 12345)
	for _, a := range []Algorithm{Gzip, Zstd} {
		for _, level := range []int{0, 9} {
			in := data
			if a == Gzip {
				in = data[:4*gzipBlock+12345]
			}
			want := pack(t, in, a, WriterOptions{Level: level, Workers: 1})
			for workers := 2; workers <= 8; workers++ {
				var got bytes.Buffer
				w, err := NewWriter(&got, a, WriterOptions{Level: level, Workers: workers})
				if err != nil {
					t.Fatal(err)
				}
				size := []int{1 << 20, 777, 3 << 20, 32 << 10, 100_003, 1<<20 + 1, 4096}[workers-2]
				for rest := in; len(rest) > 0; {
					n := min(size, len(rest))
					if _, err := w.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%s level %d: %d workers, writes of %d: other bytes", a, level, workers, size)
				}
			}
		}
	}
}

func TestWriterLevels(t *testing.T) {
	data := tarLike(500 << 10)
	for a, levels := range map[Algorithm][]int{Gzip: {1, 2, 3, 4, 5, 6, 7, 8, 9}, Zstd: {1, 3, 7, 12, 22}} {
		for _, level := range levels {
			packed := pack(t, data, a, WriterOptions{Level: level})
			if got, err := decode(t, a, packed); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s level %d: got %d bytes, error %v", a, level, len(got), err)
			}
		}
		for _, level := range []int{-1, levels[len(levels)-1] + 1} {
			if _, err := NewWriter(io.Discard, a, WriterOptions{Level: level}); err == nil {
				t.Errorf("%s level %d: no error", a, level)
			}
		}
	}
	for _, a := range []Algorithm{Xz, Bzip2, "", "lz4"} {
		if _, err := NewWriter(io.Discard, a, WriterOptions{}); err == nil {
			t.Errorf("%q: no error", a)
		}
	}
	if _, err := NewReaderFor("lz4", nil); err == nil {
		t.Error("reader of lz4: no error")
	}
}

// fullDisk takes n bytes.
type fullDisk struct{ n int }

var errFull = errors.New("disk full")

// Write fails when the disk is full.
func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.n {
		return 0, errFull
	}
	d.n -= len(p)
	return len(p), nil
}

func TestWriteError(t *testing.T) {
	data := tarLike(9 << 20)
	before := runtime.NumGoroutine()
	for _, a := range []Algorithm{Gzip, Zstd} {
		for _, n := range []int{0, 10, 1000, 2 << 20} {
			w, err := NewWriter(&fullDisk{n}, a, WriterOptions{Workers: 3})
			if err != nil {
				t.Fatal(err)
			}
			_, werr := w.Write(data)
			if werr != nil && !errors.Is(werr, errFull) {
				t.Errorf("%s, disk of %d: write: got %v", a, n, werr)
			}
			if err := w.Close(); !errors.Is(err, errFull) {
				t.Errorf("%s, disk of %d: close: got %v, want %v", a, n, err, errFull)
			}
			if err := w.Close(); !errors.Is(err, errFull) {
				t.Errorf("%s, disk of %d: second close: got %v, want %v", a, n, err, errFull)
			}
		}
	}
	checkGoroutines(t, before)
}
