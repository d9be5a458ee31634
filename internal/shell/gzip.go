// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// gzipFiles is gzip, gunzip and zcat: -d, -c, -k, -f, -1 to -9, of files or of standard input.
func gzipFiles(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "dckfnqvt123456789", "decompress=d stdout=c to-stdout=c keep=k force=f test=t fast=1 best=9")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	unpack := p.name != "gzip" || f.has("dt")
	level := gzip.DefaultCompression
	for i := range 9 {
		if f.has(string(rune('1' + i))) {
			level = i + 1
		}
	}
	convert := func(out io.Writer, in io.Reader) error {
		if f.has("t") {
			out = io.Discard
		}
		if unpack {
			return inflate(out, in)
		}
		return deflate(out, in, level)
	}
	if p.name == "zcat" || f.has("ct") || len(f.rest) == 0 {
		return p.eachFile(f.rest, func(_ string, r io.Reader) error { return convert(p.out, r) })
	}
	status := 0
	for _, name := range f.rest {
		if err := p.gzipFile(name, unpack, f, convert); err != nil {
			status = p.failPath(name, err)
		}
	}
	return status
}

// gzipFile replaces a file by its packed or unpacked form.
func (p *proc) gzipFile(name string, unpack bool, f flags, convert func(io.Writer, io.Reader) error) error {
	target := name + ".gz"
	if unpack {
		var ok bool
		if target, ok = strings.CutSuffix(name, ".gz"); !ok {
			if target, ok = strings.CutSuffix(name, ".tgz"); !ok {
				return errors.New("unknown suffix -- ignored")
			}
			target += ".tar"
		}
	}
	in, err := os.Open(p.path(name))
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if f.has("f") {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(p.path(target), mode, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(convert(out, in), out.Close()); err != nil {
		return errors.Join(err, os.Remove(p.path(target)))
	}
	if err := keepMetadata(p.path(target), info); err != nil || f.has("k") {
		return err
	}
	return os.Remove(p.path(name))
}

func inflate(out io.Writer, in io.Reader) error {
	r, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("not in gzip format: %w", err)
	}
	_, err = io.Copy(out, r)
	return err
}

func deflate(out io.Writer, in io.Reader, level int) error {
	w, err := gzip.NewWriterLevel(out, level)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return errors.Join(err, w.Close())
}
