// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/erofs"
	"build.stacker.dev/internal/layer/squashfs"
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
// NAME [-> LINK] [XATTR=...]", and "layers: NUMBER": image LAYOUT TAG. Layers are
// numbered from 0.
func cmdImage(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image LAYOUT TAG")
	}
	l, m, _ := load(ts, args[0], args[1])
	defer l.Close()
	for i, d := range m.Layers {
		r, err := l.Open(context.Background(), d)
		ts.Check(err)
		err = list(ts.Stdout(), i, d.MediaType, r)
		_ = r.Close()
		ts.Check(err)
	}
	_, err := fmt.Fprintf(ts.Stdout(), "layers: %d\n", len(m.Layers))
	ts.Check(err)
}

// cmdMerged lists what a tag's layers make together, and how a container of it is run, in a
// form that two images can be compared by: merged LAYOUT TAG. It knows no deletions.
func cmdMerged(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: merged LAYOUT TAG")
	}
	l, m, config := load(ts, args[0], args[1])
	defer l.Close()
	var all bytes.Buffer
	for _, d := range m.Layers {
		r, err := l.Open(context.Background(), d)
		ts.Check(err)
		err = list(&all, 0, d.MediaType, r)
		_ = r.Close()
		ts.Check(err)
	}
	last := map[string]string{}
	for line := range strings.Lines(all.String()) {
		if strings.Contains(line, "/.wh.") {
			ts.Fatalf("a deletion: %s", line)
		}
		last[strings.Fields(line)[5]] = line
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		_, err := io.WriteString(ts.Stdout(), last[name])
		ts.Check(err)
	}
	c, err := image.ParseConfig(config)
	ts.Check(err)
	c.Config.ArgsEscaped = false // means something on Windows only
	text, err := json.Marshal(c.Config)
	ts.Check(err)
	_, err = fmt.Fprintf(ts.Stdout(), "%s\n", text)
	ts.Check(err)
}

// asTar gives the archive of a layer of any type.
func asTar(mediaType string, blob io.Reader) (io.ReadCloser, error) {
	t, _ := image.ParseLayerType(mediaType)
	if t.Archive != image.Squashfs && t.Archive != image.Erofs {
		z, _, err := compress.NewReader(blob)
		return z, err
	}
	b, err := io.ReadAll(blob)
	if err != nil {
		return nil, err
	}
	var entries iter.Seq2[*layer.Entry, error]
	if t.Archive == image.Squashfs {
		img, err := squashfs.Open(bytes.NewReader(b), int64(len(b)), squashfs.Limits{})
		if err != nil {
			return nil, err
		}
		entries = img.Entries(context.Background())
	} else {
		img, err := erofs.Open(bytes.NewReader(b), int64(len(b)), erofs.Limits{})
		if err != nil {
			return nil, err
		}
		entries = img.Entries(context.Background())
	}
	var out bytes.Buffer
	err = layer.ToArchive(context.Background(), &out, entries)
	return io.NopCloser(&out), err
}

func list(w io.Writer, number int, mediaType string, blob io.Reader) error {
	z, err := asTar(mediaType, blob)
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

// cmdDigest prints the digest of a tag's manifest: digest LAYOUT TAG.
func cmdDigest(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: digest LAYOUT TAG")
	}
	l, err := layout.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer l.Close()
	d, err := l.Resolve(context.Background(), args[1])
	ts.Check(err)
	_, err = fmt.Fprintln(ts.Stdout(), d.Digest)
	ts.Check(err)
}

// cmdTar makes an archive of lines "TYPE MODE UID:GID NAME [TEXT] [-> LINK]
// [@XATTR=VALUE]...": mktar ARCHIVE LINES. TYPE is tar's letter, or f, d, l, h for
// file, directory, symbolic link and hard link. A device has TEXT "MAJOR,MINOR".
func cmdTar(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mktar ARCHIVE LINES")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	w := tar.NewWriter(f)
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		if fields := strings.Fields(line); len(fields) >= 4 {
			h, text, err := entryOf(fields)
			ts.Check(err)
			ts.Check(w.WriteHeader(h))
			_, err = io.WriteString(w, text)
			ts.Check(err)
		}
	}
	ts.Check(w.Close())
}

func entryOf(fields []string) (*tar.Header, string, error) {
	types := map[string]byte{"f": tar.TypeReg, "d": tar.TypeDir, "l": tar.TypeSymlink, "h": tar.TypeLink}
	h := &tar.Header{Typeflag: fields[0][0], Name: fields[3], Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	if t, ok := types[fields[0]]; ok {
		h.Typeflag = t
	}
	if _, err := fmt.Sscanf(fields[1], "%o", &h.Mode); err != nil {
		return nil, "", fmt.Errorf("mode %s: %w", fields[1], err)
	}
	if _, err := fmt.Sscanf(fields[2], "%d:%d", &h.Uid, &h.Gid); err != nil {
		return nil, "", fmt.Errorf("owner %s: %w", fields[2], err)
	}
	text := ""
	for i := 4; i < len(fields); i++ {
		name, value, xattr := strings.Cut(strings.TrimPrefix(fields[i], "@"), "=")
		switch {
		case fields[i] == "->" && i+1 < len(fields):
			i++
			h.Linkname = fields[i]
		case xattr && fields[i][0] == '@':
			v, err := strconv.Unquote(`"` + value + `"`)
			if err != nil {
				return nil, "", fmt.Errorf("xattr %s: %w", fields[i], err)
			}
			h.PAXRecords["SCHILY.xattr."+name] = v
		case h.Typeflag == tar.TypeReg:
			text = fields[i] + "\n"
		default:
			if _, err := fmt.Sscanf(fields[i], "%d,%d", &h.Devmajor, &h.Devminor); err != nil {
				return nil, "", fmt.Errorf("device %s: %w", fields[i], err)
			}
		}
	}
	h.Size = int64(len(text))
	return h, text, nil
}
