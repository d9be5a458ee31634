// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package lz4

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// inputs are contents of different kinds.
func inputs(tb testing.TB) map[string][]byte {
	tb.Helper()
	random := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random) // never fails
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		tb.Fatal(err)
	}
	text := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog 0123456789\n"), 3000)
	for i := range text {
		if i%97 == 0 {
			text[i] = byte(i)
		}
	}
	mixed := append(bytes.Clone(random[:50_000]), text[:50_000]...)
	return map[string][]byte{
		"empty": nil, "short": []byte("abc"), "zeros": make([]byte, 1<<20), "random": random, "text": text,
		"mixed": append(mixed, make([]byte, 50_000)...), "program": program[:min(len(program), 1<<20)],
		"letters": bytes.Repeat([]byte("a"), 100), "pairs": bytes.Repeat([]byte("ab"), 4000),
	}
}

// TestFill compresses inputs into blocks of many sizes and reads them back.
func TestFill(t *testing.T) {
	for name, src := range inputs(t) {
		for _, room := range []int{16, 17, 31, 100, 270, 271, 272, 273, 4096, 65536, 2 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, room), func(t *testing.T) {
				if room < 1000 {
					src = src[:min(len(src), 20_000)]
				}
				var e Encoder
				dst := make([]byte, room)
				var back []byte
				for rest := src; len(rest) > 0; {
					took, n := e.Fill(dst, rest)
					if took <= 0 {
						t.Fatalf("took %d of %d", took, len(rest))
					}
					out := make([]byte, took)
					if got, err := Decode(out, dst[:n]); err != nil || got != took {
						t.Fatalf("Decode: %d, %v, want %d", got, err, took)
					}
					if n < room-20 && took < len(rest) {
						t.Errorf("filled %d of %d bytes with %d of %d", n, room, took, len(rest))
					}
					if !endsRight(dst[:n]) {
						t.Fatalf("block breaks the rules for its end")
					}
					if took > 10 {
						if err := DecodePart(make([]byte, took-7), dst[:n]); err != nil {
							t.Errorf("DecodePart: %v", err)
						}
					}
					back = append(back, out...)
					rest = rest[took:]
				}
				if !bytes.Equal(back, src) {
					t.Error("the result is not the input")
				}
			})
		}
	}
}

// endsRight verifies what decoders rely on: the last five bytes are literals, and
// the last match begins twelve bytes before the end.
func endsRight(block []byte) bool {
	match := 0
	for {
		token := int(block[0])
		literals, rest, _ := length(block[1:], token>>4)
		block = rest[literals:]
		if len(block) == 0 {
			return match == 0 || literals >= lastLiterals && match+literals >= matchLimit
		}
		match, block, _ = length(block[2:], token&15)
		match += minMatch
	}
}

func TestRatio(t *testing.T) {
	zeros := make([]byte, 1<<20)
	var e Encoder
	if took, n := e.Fill(make([]byte, 8192), zeros); took != len(zeros) || n > 4200 {
		t.Errorf("zeros: %d bytes of %d became %d", took, len(zeros), n)
	}
	text := inputs(t)["text"]
	if took, n := e.Fill(make([]byte, 1<<20), text); took != len(text) || n > len(text)/5 {
		t.Errorf("text: %d bytes of %d became %d", took, len(text), n)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, src := range map[string]string{
		"nothing":               "",
		"no literals":           "\x10",
		"no length":             "\xf0\xff",
		"half a distance":       "\x10a\x01",
		"distance zero":         "\x10a\x00\x00\x50bcdef",
		"distance too far":      "\x10a\x02\x00\x50bcdef",
		"no last sequence":      "\x10a\x01\x00",
		"length of match ended": "\x1fa\x01\x00\xff",
		"too much":              "\x1fa\x01\x00\xff\xff\xff\x00\x50bcdef",
	} {
		if n, err := Decode(make([]byte, 100), []byte(src)); err == nil {
			t.Errorf("%s: %d bytes and no error", name, n)
		}
	}
	if err := DecodePart(make([]byte, 3), []byte("\x20ab")); !errors.Is(err, ErrCorrupt) {
		t.Errorf("part longer than the block: %v, want %v", err, ErrCorrupt)
	}
}

func FuzzDecode(f *testing.F) {
	for _, src := range inputs(f) {
		dst := make([]byte, 200)
		if len(src) > 0 {
			var e Encoder
			_, n := e.Fill(dst, src)
			f.Add(dst[:n], uint16(1000))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, room uint16) {
		whole := make([]byte, room)
		n, err := Decode(whole, src)
		if n > len(whole) {
			t.Fatalf("%d bytes into %d", n, len(whole))
		}
		if err == nil {
			part := make([]byte, n/2)
			if err := DecodePart(part, src); err != nil || !bytes.Equal(part, whole[:n/2]) {
				t.Errorf("a part of what Decode took: %v", err)
			}
		}
	})
}

func FuzzFill(f *testing.F) {
	f.Add([]byte("abcabcabcabcabcabcabcabcabc"), uint16(20), uint16(300))
	f.Fuzz(func(t *testing.T, seed []byte, room, times uint16) {
		src := bytes.Repeat(seed, int(times%50)+1)
		dst := make([]byte, 16+int(room%5000))
		var e Encoder
		took, n := e.Fill(dst, src)
		out := make([]byte, took)
		if got, err := Decode(out, dst[:n]); err != nil || got != took || !bytes.Equal(out, src[:took]) {
			t.Errorf("%d bytes became %d: Decode: %d, %v", took, n, got, err)
		}
		if !endsRight(dst[:n]) {
			t.Error("block breaks the rules for its end")
		}
	})
}

// BenchmarkFill compresses a program in the way that package erofs does.
func BenchmarkFill(b *testing.B) {
	src := inputs(b)["program"]
	var e Encoder
	dst := make([]byte, 65536)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		total := 0
		for rest := src; len(rest) > 0; {
			took, n := e.Fill(dst, rest)
			rest = rest[took:]
			total += n
		}
		b.ReportMetric(float64(total)/float64(len(src)), "ratio")
	}
}
