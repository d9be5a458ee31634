// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"build.stacker.dev/internal/compress"
)

// benchCompress measures the compressors alone, both sides as one process from
// a tar to a file.
func benchCompress(ctx context.Context, b *bench) error {
	a := b.area
	if err := prepareData(a, b.scale); err != nil {
		return err
	}
	cases := []struct {
		algorithm, other string
		time, size       float64 // most ratios
	}{
		{"gzip", "pigz -6 -p2", 1.0, 1.03},
		{"zstd", "zstd -3 -T0", 1.2, 0},
	}
	for _, c := range cases {
		ours := "bin/bench compress " + c.algorithm + " in/data.tar ours"
		took := row{
			name: "compress with " + c.algorithm, goal: goal{most: c.time, ratio: true}, ourCommand: ours, otherName: c.other, otherCmd: c.other + " -c in/data.tar >other",
			note: "internal/compress with the settings of an export, called by this program from a tar to a file, as one process; the program beside it does the same.",
		}
		size := row{name: "size of the result", unit: megabytes, goal: goal{most: c.size, ratio: true}, otherName: took.otherName, note: "The files of the row before."}
		memory := memoryRow("peak memory of it")
		for range b.runs {
			x, err := a.run(ctx, nil, ours)
			if err != nil {
				return err
			}
			if err := a.sync(); err != nil {
				return err
			}
			y, err := a.shell(ctx, nil, took.otherCmd)
			if err != nil {
				return err
			}
			sizeX, err1 := os.Stat(a.path("ours"))
			sizeY, err2 := os.Stat(a.path("other"))
			if err := errors.Join(err1, err2); err != nil {
				return fmt.Errorf("measure result: %w", err)
			}
			took.ours, took.other = append(took.ours, x.took.Seconds()), append(took.other, y.took.Seconds())
			size.ours, size.other = append(size.ours, float64(sizeX.Size())/1e6), append(size.other, float64(sizeY.Size())/1e6)
			memory.ours = append(memory.ours, float64(x.maxRSS)/1e6)
			if err := a.remove("ours", "other"); err != nil {
				return err
			}
		}
		b.report.add(took, size, memory)
	}
	return nil
}

// compressFile is the process that is measured.
func compressFile(algorithm, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	w, err := compress.NewWriter(out, compress.Algorithm(algorithm), compress.WriterOptions{})
	if err != nil {
		return errors.Join(err, out.Close())
	}
	// A plain copy, as the writer gets it from a tar writer: small pieces.
	_, err = io.CopyBuffer(w, struct{ io.Reader }{in}, make([]byte, 64<<10))
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		return fmt.Errorf("compress %s: %w", src, err)
	}
	return nil
}
