// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// load reads a tag's manifest and config.
func load(ts *testscript.TestScript, dir, tag string) (*layout.Layout, ocispec.Manifest, []byte) {
	ctx := context.Background()
	l, err := layout.Open(ts.MkAbs(dir))
	ts.Check(err)
	d, err := l.Resolve(ctx, tag)
	ts.Check(err)
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	ts.Check(err)
	m, err := image.ParseManifest(raw, d.MediaType)
	ts.Check(err)
	config, err := l.Blobs().ReadAll(ctx, m.Config, image.MaxConfigSize)
	ts.Check(err)
	return l, m, config
}

// cmdConfig prints a tag's config as JSON: config LAYOUT TAG.
func cmdConfig(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: config LAYOUT TAG")
	}
	l, m, config := load(ts, args[0], args[1])
	defer l.Close()
	_, err := fmt.Fprintf(ts.Stdout(), "%s\n", config)
	ts.Check(err)
	for k, v := range m.Annotations {
		_, err := fmt.Fprintf(ts.Stdout(), "annotation %s=%s\n", k, v)
		ts.Check(err)
	}
}

// cmdImage lists the entries of a tag's layers, "LAYER: TYPE MODE UID:GID SIZE
// NAME [-> LINK] [XATTR=...]": image LAYOUT TAG. Layers are numbered from 0.
func cmdImage(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image LAYOUT TAG")
	}
	l, m, _ := load(ts, args[0], args[1])
	defer l.Close()
	for i, d := range m.Layers {
		r, err := l.Open(context.Background(), d)
		ts.Check(err)
		err = list(ts.Stdout(), i, r)
		_ = r.Close()
		ts.Check(err)
	}
}

func list(w io.Writer, number int, blob io.Reader) error {
	z, _, err := compress.NewReader(blob)
	if err != nil {
		return err
	}
	defer z.Close()
	tr := tar.NewReader(z)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%d: %c %04o %d:%d %d %s", number, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		var xattrs []string
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				xattrs = append(xattrs, name+"="+strconv.Quote(v))
			}
		}
		slices.Sort(xattrs)
		if _, err := fmt.Fprintln(w, line, strings.Join(xattrs, " ")); err != nil {
			return err
		}
	}
}
