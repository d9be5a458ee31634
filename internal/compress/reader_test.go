// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestDetect(t *testing.T) {
	tests := []struct {
		header string
		want   Algorithm
	}{
		{"", None},
		{"\x1f", None},
		{"\x1f\x8b\x08\x00\x00\x00", Gzip},
		{"\x1f\x8b\x07\x00\x00\x00", None},
		{"\x28\xb5\x2f\xfd\x00\x00", Zstd},
		{"\x50\x2a\x4d\x18\x00\x00", Zstd},
		{"\x5f\x2a\x4d\x18\x00\x00", Zstd},
		{"\x60\x2a\x4d\x18\x00\x00", None},
		{"\xfd7zXZ\x00", Xz},
		{"\xfd7zXZ", None},
		{"BZh91A", Bzip2},
		{"BZh01A", None},
		{"etc/hostname", None},
	}
	for _, tt := range tests {
		if got := Detect([]byte(tt.header)); got != tt.want {
			t.Errorf("Detect(%q) = %v, want %v", tt.header, got, tt.want)
		}
	}
}

// foreign compresses data with another program.
func foreign(t testing.TB, data []byte, a Algorithm) []byte {
	switch a {
	case Gzip:
		return run(t, data, "gzip", "-6", "-n", "-c")
	case Zstd:
		return run(t, data, "zstd", "-3", "-q", "-c")
	case Xz:
		return run(t, data, "xz", "-0", "-c")
	case Bzip2:
		return run(t, data, "bzip2", "-1", "-c")
	}
	return data
}

func TestReadForeign(t *testing.T) {
	data := tarLike(300 << 10)
	tests := []struct {
		want Algorithm
		argv []string
	}{
		{Gzip, []string{"gzip", "-1"}},
		{Gzip, []string{"gzip", "-9", "-n"}},
		{Gzip, []string{"pigz", "-6", "-p2", "-b128"}},
		{Gzip, []string{"pigz", "-H"}}, // Huffman only
		{Gzip, []string{"pigz", "-0"}},
		{Zstd, []string{"zstd", "-q", "-1"}},
		{Zstd, []string{"zstd", "-q", "-12", "-T2"}},
		{Zstd, []string{"zstd", "-q", "--long=27"}},
		{Xz, []string{"xz", "-0", "--check=none"}},
		{Xz, []string{"xz", "-1", "--check=crc32", "--block-size=100000"}},
		{Xz, []string{"xz", "-6", "--check=crc64", "-T2", "--block-size=100000"}},
		{Xz, []string{"xz", "-9", "--check=sha256"}},
		{Bzip2, []string{"bzip2", "-1"}},
		{None, []string{"cat"}},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.argv, "_"), func(t *testing.T) {
			for _, n := range []int{0, 1, 1000, len(data)} {
				packed := run(t, data[:n], tt.argv[0], tt.argv[1:]...)
				for copies := 1; copies <= 2; copies++ {
					r, a, err := NewReader(bytes.NewReader(bytes.Repeat(packed, copies)))
					if err != nil || a != tt.want && n > 0 {
						t.Fatalf("%d bytes: got %v, error %v, want %v", n, a, err, tt.want)
					}
					got, err := io.ReadAll(r)
					if err != nil || !bytes.Equal(got, bytes.Repeat(data[:n], copies)) {
						t.Errorf("%d bytes × %d: got %d bytes, error %v", n, copies, len(got), err)
					}
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// TestReadPieces reads through sources and into buffers of odd sizes.
func TestReadPieces(t *testing.T) {
	data := tarLike(400 << 10)
	for _, a := range []Algorithm{None, Gzip, Zstd, Xz, Bzip2} {
		t.Run(string(a), func(t *testing.T) {
			packed := foreign(t, data, a)
			sources := map[string]io.Reader{
				"byte": iotest.OneByteReader(bytes.NewReader(packed)),
				"half": iotest.HalfReader(bytes.NewReader(packed)),
				"eof":  iotest.DataErrReader(bytes.NewReader(packed)),
			}
			for name, src := range sources {
				r, _, err := NewReader(src)
				if err != nil {
					t.Fatal(err)
				}
				if err := iotest.TestReader(r, data); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				r.Close()
			}
		})
	}
}

func TestGzipFormat(t *testing.T) {
	member := func(text string, name string, extra []byte) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Name, w.Comment, w.Extra = name, name, extra
		w.Write([]byte(text))
		w.Close()
		return b.String()
	}
	a, b := member("a", "", nil), member("bc", "name", []byte("extra"))
	badSum := []byte(a)
	badSum[len(badSum)-8]++
	badSize := []byte(a)
	badSize[len(badSize)-1]++
	tests := []struct {
		name, in, want string
		err            error
	}{
		{"two members", a + b, "abc", nil},
		{"zero padding", a + strings.Repeat("\x00", 600), "a", nil},
		{"garbage", a + "x", "a", errGzipGarbage},
		{"garbage after padding", a + "\x00\x00x", "a", errGzipGarbage},
		{"member after padding", a + "\x00" + b, "a", errGzipGarbage},
		{"half a header", a + b[:5], "a", io.ErrUnexpectedEOF},
		{"empty", "", "", io.ErrUnexpectedEOF},
		{"checksum", string(badSum), "a", errGzipSum},
		{"length", string(badSize), "a", errGzipSum},
		{"method", "\x1f\x8b\x07" + a[3:], "", errGzipHeader},
		{"reserved flag", "\x1f\x8b\x08\xe0" + a[4:], "", errGzipHeader},
		{"header checksum", "\x1f\x8b\x08\x02" + a[4:10] + "xx" + a[10:], "", errGzipHeader},
	}
	for _, tt := range tests {
		r, err := NewReaderFor(Gzip, strings.NewReader(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, err, tt.want, tt.err)
		}
		r.Close()
	}
}

// TestDamage truncates and flips at every 64th of an input. Nothing but an error, or for bits that do not
// matter the right content, may come of it; soon, and with no goroutine left.
func TestDamage(t *testing.T) {
	data := tarLike(60 << 10)
	before := runtime.NumGoroutine()
	for _, a := range []Algorithm{Gzip, Zstd, Xz, Bzip2} {
		t.Run(string(a), func(t *testing.T) {
			packed := foreign(t, data, a)
			for i := range 64 {
				at := len(packed) * i / 64
				if _, err := decode(t, a, packed[:at]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("cut at %d: got %v, want %v", at, err, io.ErrUnexpectedEOF)
				}
				for _, bit := range []int{i % 8, (i + 3) % 8} {
					bad := bytes.Clone(packed)
					bad[at] ^= 1 << bit
					got, err := decode(t, a, bad)
					if err == nil && !bytes.Equal(got, data) {
						t.Errorf("bit %d of byte %d: wrong content without an error", bit, at)
					}
				}
			}
			for n := 1; n < 16; n++ {
				if _, err := decode(t, a, packed[:len(packed)-n]); err == nil {
					t.Errorf("last %d bytes missing: no error", n)
				}
			}
		})
	}
	checkGoroutines(t, before)
}

func decode(t *testing.T, a Algorithm, packed []byte) ([]byte, error) {
	t.Helper()
	start := time.Now()
	r, err := NewReaderFor(a, bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("took %v", d)
	}
	return got, err
}

// TestClose closes readers in the middle.
func TestClose(t *testing.T) {
	data := tarLike(4 << 20)
	before := runtime.NumGoroutine()
	for _, a := range []Algorithm{Gzip, Zstd} {
		packed := pack(t, data, a, WriterOptions{})
		for _, n := range []int{0, 1, 300 << 10} {
			r, err := NewReaderFor(a, bytes.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("%s: read after close: got %v", a, err)
			}
		}
	}
	checkGoroutines(t, before)
}

func TestReadError(t *testing.T) {
	want := errors.New("broken line")
	data := tarLike(100 << 10)
	for _, a := range []Algorithm{None, Gzip, Zstd, Xz, Bzip2} {
		packed := foreign(t, data, a)
		src := io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(want))
		r, _, err := NewReader(src)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", a, err, want)
		}
		r.Close()
	}
	if _, _, err := NewReader(iotest.ErrReader(want)); !errors.Is(err, want) {
		t.Errorf("first bytes: got %v, want %v", err, want)
	}
}

func TestWindowLimit(t *testing.T) {
	// A frame with a window of 2 GiB; an xz block header with a dictionary of 1.5 GiB.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0}
	_, err := decode(t, Zstd, frame)
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) || !strings.Contains(err.Error(), "128 MiB") {
		t.Errorf("zstd: got %v", err)
	}
	packed := run(t, []byte("text"), "xz", "--lzma2=dict=1536MiB")
	if _, err = decode(t, Xz, packed); err == nil || !strings.Contains(err.Error(), "128 MiB") {
		t.Errorf("xz: got %v", err)
	}
}

// TestXzSmallBlocks reads a block for every byte, each of which wants a dictionary of 64 MiB.
func TestXzSmallBlocks(t *testing.T) {
	packed := run(t, make([]byte, 1000), "xz", "-T1", "--lzma2=dict=64MiB", "--block-size=1")
	if _, err := decode(t, Xz, packed); !errors.Is(err, errXzBlocks) {
		t.Errorf("got %v, want %v", err, errXzBlocks)
	}
}

func TestXzFormat(t *testing.T) {
	stream := string(run(t, []byte("text"), "xz"))
	flip := func(at int) string {
		b := []byte(stream)
		b[(at+len(b))%len(b)] ^= 1
		return string(b)
	}
	bcj := string(run(t, []byte("text"), "xz", "--x86", "--lzma2"))
	tests := []struct {
		name, in, want string
		err            error
	}{
		{"padding", stream + "\x00\x00\x00\x00" + stream + "\x00\x00\x00\x00", "texttext", nil},
		{"odd padding", stream + "\x00\x00\x00", "text", io.ErrUnexpectedEOF},
		{"stream after odd padding", stream + "\x00" + stream, "text", errXzGarbage},
		{"garbage", stream + "not another stream", "text", errXzGarbage},
		{"magic", flip(0), "", errXzHeader},
		{"stream flags", flip(7), "", errXzHeader},
		{"block header", flip(14), "", errXzBlock},
		{"filter", bcj, "", errXzFilter},
		{"footer magic", flip(-1), "text", errXzIndex},
		{"backward size", flip(-8), "text", errXzIndex},
		{"index checksum", flip(-16), "text", errXzIndex},
		{"index", flip(-18), "text", errXzIndex},
		{"content checksum", flip(-22), "text", errXzSum},
	}
	for _, tt := range tests {
		got, err := decode(t, Xz, []byte(tt.in))
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}
