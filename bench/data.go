// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// The data is made to look like a distribution's root file system: 25,000
// files of 28 kB on average, most of them small, a half text, two fifths
// programs and libraries, a tenth that does not compress. Text, random bytes,
// sizes and names are the same everywhere; programs are those of the machine.
const (
	fullFiles   = 25_000
	meanSize    = 28_000
	maxFileSize = 4 << 20
	filesPerDir = 40
)

// epoch is the time of all files.
var epoch = time.Unix(1_700_000_000, 0)

// fileCount is the number of files at a scale.
func fileCount(scale float64) int { return max(20, int(fullFiles*scale)) }

// writeData writes a tar of the files from number first up to number end, with the directories that they are in.
func writeData(path string, first, end int, extra func(*tar.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make data: %w", err)
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	err = extra(w)
	g := generator{words: words(), programs: &programs{}, text: make([]byte, 0, maxFileSize+64)}
	defer g.programs.Close()
	for i := first; i < end && err == nil; i++ {
		err = g.file(w, i, i == first)
	}
	if err := errors.Join(err, w.Close(), buffered.Flush(), f.Close()); err != nil {
		return fmt.Errorf("make data %s: %w", filepath.Base(path), err)
	}
	return nil
}

// generator makes the contents of files.
type generator struct {
	words    []string
	programs *programs
	text     []byte
}

// file writes file number n; its directory too, where it is the first in it.
func (g *generator) file(w *tar.Writer, n int, withDir bool) error {
	dir := fmt.Sprintf("usr/share/d%03d", n/filesPerDir)
	if withDir || n%filesPerDir == 0 {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
	}
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/file-%05d", dir, n), ModTime: epoch, Format: tar.FormatPAX,
		Mode: 0o644, Uid: []int{0, 0, 0, 33}[n%4], Size: int64(size(rng)),
	}
	kind := rng.IntN(10)
	if kind >= 5 {
		h.Mode = 0o755
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	var src io.Reader
	switch {
	case kind < 5:
		_, err := w.Write(g.prose(rng, int(h.Size)))
		return err
	case kind < 9:
		src = g.programs
	default:
		src = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	}
	_, err := io.CopyN(w, src, h.Size)
	return err
}

// size draws the size of a file: half of all are below 7 kB, few are large.
func size(rng *rand.Rand) int {
	// A log-normal distribution; its mean is exp(mu + sigma²/2).
	const sigma = 1.6
	mu := math.Log(meanSize) - sigma*sigma/2
	return min(maxFileSize, int(math.Exp(mu+sigma*rng.NormFloat64())))
}

// words is a vocabulary.
func words() []string {
	rng := rand.New(rand.NewPCG(1, 1))
	list := make([]string, 4096)
	for i := range list {
		b := make([]byte, 2+rng.IntN(9))
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkjqxz_-.(0;"[int(32*math.Pow(rng.Float64(), 2))]
		}
		list[i] = string(b)
	}
	return list
}

// prose is n bytes of text in which few words are frequent.
func (g *generator) prose(rng *rand.Rand, n int) []byte {
	b := g.text[:0]
	for len(b) < n {
		u := rng.Float64()
		b = append(b, g.words[int(u*u*u*float64(len(g.words)))]...)
		b = append(b, " \n"[min(1, rng.IntN(10)/9)])
	}
	g.text = b
	return b[:n]
}

// programs reads the machine's programs and libraries one after the other, over and over.
type programs struct {
	names []string
	next  int
	file  *os.File
}

// Read implements io.Reader.
func (p *programs) Read(b []byte) (int, error) {
	for tries := 0; ; tries++ {
		if p.file != nil {
			n, err := p.file.Read(b)
			if n > 0 {
				return n, nil
			}
			if err := p.Close(); err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			if err != io.EOF {
				return 0, err
			}
		}
		if err := p.open(); err != nil || tries > len(p.names) {
			return 0, errors.Join(errors.New("find programs and libraries to take data from"), err)
		}
	}
}

func (p *programs) open() (err error) {
	if p.names == nil {
		for _, dir := range []string{"/usr/bin", "/usr/lib"} {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					if info, err := d.Info(); err == nil && info.Size() >= 16<<10 {
						p.names = append(p.names, path)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	if len(p.names) == 0 {
		return errors.New("there are none in /usr/bin and /usr/lib")
	}
	p.file, err = os.Open(p.names[p.next%len(p.names)])
	p.next++
	return err
}

// Close closes the file that is being read.
func (p *programs) Close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}
