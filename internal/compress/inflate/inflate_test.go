// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

var errSource = errors.New("broken source")

// decode decodes one stream with output buffers of room bytes, and returns how much of the source is
// left after it.
func decode(src io.Reader, room int) (out []byte, d *Decoder, err error) {
	d = NewDecoder(src)
	buf := make([]byte, WindowSize+room+Slack)
	for start := WindowSize; ; {
		end, err := d.Decode(buf, start)
		out = append(out, buf[start:end]...)
		if err != nil {
			return out, d, err
		}
		copy(buf, buf[end-WindowSize:end])
	}
}

func deflate(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samples are contents that lead to every kind of block and match.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(3, 4))
	random := make([]byte, 200<<10)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	skewed := make([]byte, 200<<10)
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 12)
	}
	// Frequencies that grow like Fibonacci numbers make codes of 15 bits.
	var deep []byte
	for i, a, b := 0, 1, 1; i < 24; i, a, b = i+1, b, a+b {
		deep = append(deep, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	r.Shuffle(len(deep), func(i, j int) { deep[i], deep[j] = deep[j], deep[i] })
	var periods, mixed []byte
	for n := 1; n < 300; n++ {
		periods = append(periods, bytes.Repeat(random[:n], 2+600/n)...)
	}
	for len(mixed) < 1<<20 {
		from := r.IntN(len(random) - 700)
		mixed = append(mixed, random[from:from+r.IntN(700)]...)
		mixed = append(mixed, skewed[from:from+r.IntN(700)]...)
	}
	far := append(bytes.Clone(random[:WindowSize]), random[:WindowSize]...)
	return map[string][]byte{
		"empty": nil, "one": {7}, "zeros": make([]byte, 1<<20), "random": random, "skewed": skewed,
		"deep": deep, "periods": periods, "mixed": mixed, "far": far,
	}
}

func TestDecode(t *testing.T) {
	for name, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
			packed := deflate(t, data, level)
			for _, room := range []int{100, 64 << 10} {
				src := bytes.NewReader(append(bytes.Clone(packed), "tail"...))
				got, d, err := decode(src, room)
				if err != io.EOF || !bytes.Equal(got, data) {
					t.Fatalf("%s, level %d, room %d: got %d bytes, error %v, want %d", name, level, room, len(got), err, len(data))
				}
				tail := make([]byte, 4)
				if err := d.ReadFull(tail); err != nil || string(tail) != "tail" {
					t.Errorf("%s, level %d: after the stream: got %q, %v", name, level, tail, err)
				}
				if err := d.ReadFull(tail); err != io.EOF {
					t.Errorf("at the end of the source: got %v, want EOF", err)
				}
			}
		}
	}
}

func TestDecodePieces(t *testing.T) {
	data := samples()["mixed"][:100<<10]
	packed := deflate(t, data, 6)
	for name, src := range map[string]io.Reader{
		"byte": iotest.OneByteReader(bytes.NewReader(packed)),
		"eof":  iotest.DataErrReader(bytes.NewReader(packed)),
	} {
		if got, _, err := decode(src, 1000); err != io.EOF || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, error %v", name, len(got), err)
		}
	}
	for n := 0; n < len(packed); n++ {
		if n == 300 {
			n = len(packed) - 300
		}
		got, _, err := decode(bytes.NewReader(packed[:n]), 64<<10)
		if err != io.ErrUnexpectedEOF || !bytes.HasPrefix(data, got) {
			t.Fatalf("cut at %d: got %d bytes, error %v", n, len(got), err)
		}
	}
	src := io.MultiReader(bytes.NewReader(packed[:5000]), iotest.ErrReader(errSource))
	if got, _, err := decode(src, 1000); err != errSource || len(got) < 5000 || !bytes.HasPrefix(data, got) {
		t.Errorf("broken source: got %d bytes, error %v", len(got), err)
	}
	if _, _, err := decode(silent{}, 1000); err != io.ErrNoProgress {
		t.Errorf("silent source: got %v, want %v", err, io.ErrNoProgress)
	}
}

// silent returns nothing, for ever.
type silent struct{}

// Read returns nothing.
func (silent) Read([]byte) (int, error) { return 0, nil }

// bitStream packs zeros and ones into bytes, low bits first, and adds ten bytes of zeros.
func bitStream(s string) []byte {
	s = strings.ReplaceAll(s, " ", "")
	out := make([]byte, len(s)/8+10)
	for i := range s {
		out[i/8] |= (s[i] - '0') << (i % 8)
	}
	return out
}

func TestCorrupt(t *testing.T) {
	// Numbers have their low bit first, codes their high bit.
	tests := []struct{ name, bits string }{
		{"block type 3", "1 11"},
		{"stored length", "1 00 00000 1000000000000000 1111111111111111"},
		{"distance before the start", "1 10 10010001 0000001 00001"},
		{"fixed length symbol 286", "1 10 11000110"},
		{"fixed distance symbol 30", "1 10 10010001 0000001 11110"},
		{"287 length symbols", "1 01 01111 00000 0000"},
		{"31 distance symbols", "1 01 00000 01111 0000"},
		{"oversubscribed code of code lengths", "1 01 00000 00000 0000 100 100 100 100"},
		{"incomplete code of code lengths", "1 01 00000 00000 0000 010 000 000 010"},
		{"no code of code lengths", "1 01 00000 00000 0000 000 000 000 000"},
		{"repeat of nothing", "1 01 00000 00000 0000 100 000 000 100 1 00"},
		{"repeat past the end", "1 01 00000 00000 0000 000 000 100 100 1 1111111 1 1111111"},
		{"no codes", "1 01 00000 00000 0000 000 000 100 100 1 1111111 1 1011011 0"},
	}
	for _, tt := range tests {
		in := bitStream(tt.bits)
		if _, _, err := decode(bytes.NewReader(in), 1000); err != ErrCorrupt {
			t.Errorf("%s: got %v, want %v", tt.name, err, ErrCorrupt)
		}
		if _, _, err := decode(bytes.NewReader(append(in, make([]byte, 100)...)), 1000); err != ErrCorrupt {
			t.Errorf("%s, more input: got %v, want %v", tt.name, err, ErrCorrupt)
		}
		if _, err := io.ReadAll(flate.NewReader(bytes.NewReader(in))); err == nil || err == io.ErrUnexpectedEOF {
			t.Errorf("%s: the standard library says %v", tt.name, err)
		}
	}
}

// FuzzDecode compares with the standard library, by short and by long ways through the decoder.
func FuzzDecode(f *testing.F) {
	for _, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 6} {
			f.Add(deflate(f, data[:min(len(data), 3000)], level))
		}
	}
	f.Add([]byte("\x4b\x04\x00"))
	f.Add([]byte(strings.Repeat("\x00", 40)))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 64 << 10
		src := bytes.NewReader(in)
		want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(src), limit))
		if len(want) == limit {
			return
		}
		left := src.Len()
		for _, room := range []int{16, 64 << 10} {
			got, d, err := decode(bytes.NewReader(in), room)
			if (err == io.EOF) != (wantErr == nil) || err == nil {
				t.Fatalf("room %d: got error %v, want %v", room, err, wantErr)
			}
			if wantErr != nil {
				continue
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("room %d: got %d other bytes, want %d", room, len(got), len(want))
			}
			rest := make([]byte, left)
			if err := d.ReadFull(rest); err != nil || !bytes.Equal(rest, in[len(in)-left:]) {
				t.Fatalf("room %d: %d bytes left: %v", room, left, err)
			}
		}
	})
}
