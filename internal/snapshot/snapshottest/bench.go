// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"build.stacker.dev/internal/snapshot"
)

// The base of the benchmarks: a small distribution has as many files.
const (
	benchDirs  = 1000
	benchFiles = 20 // in each
	benchBytes = 8 << 10
)

// Bench measures what a driver does for a step over 20,000 files: Prepare, the
// first of which is not counted, and Capture after nothing was changed. beside,
// which may be nil, is measured in the same run with the base's directory.
func Bench(b *testing.B, d snapshot.Driver, beside func(base string)) {
	base := tree('1')
	dir, err := d.Dir(snapshot.NewID())
	must(b, err)
	content := bytes.Repeat([]byte("x"), benchBytes)
	for i := range benchDirs {
		sub := filepath.Join(dir, fmt.Sprintf("%03d", i))
		must(b, os.Mkdir(sub, 0o755))
		for j := range benchFiles {
			must(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("%d", j)), content, 0o644))
		}
	}
	must(b, d.Adopt(dir, base))
	prepare := func() snapshot.Active {
		a, err := d.Prepare(b.Context(), snapshot.NewID(), []string{base})
		must(b, err)
		return a
	}
	discard := func(a snapshot.Active) { must(b, d.Discard(a.ID)) }
	discard(prepare())
	b.Run("prepare", func(b *testing.B) {
		for b.Loop() {
			a := prepare()
			b.StopTimer()
			discard(a)
			b.StartTimer()
		}
	})
	b.Run("begin and capture", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			a := prepare()
			b.StartTimer()
			must(b, d.Begin(b.Context(), a, nil))
			must(b, d.Capture(b.Context(), a))
			b.StopTimer()
			discard(a)
			b.StartTimer()
		}
	})
	if beside == nil {
		return
	}
	b.Run("beside", func(b *testing.B) {
		for b.Loop() {
			beside(d.Path(base))
		}
	})
}
