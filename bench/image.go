// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// busybox is the only program in the images; Debian's busybox-static.
const busybox = "/bin/busybox"

// addBusybox writes a root file system with busybox: what a step needs to run.
func addBusybox(w *tar.Writer) error {
	data, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("find a static busybox (Debian: busybox-static): %w", err)
	}
	head := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(data))},
	}
	for _, applet := range []string{"sh", "true", "tar", "mkdir", "echo"} {
		head = append(head, &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777})
	}
	for _, h := range head {
		h.ModTime, h.Format = epoch, tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
	}
	return nil
}

func nothing(*tar.Writer) error { return nil }

// busyboxTar makes the archive bb.tar in the area.
func busyboxTar(a *area) error { return writeData(a.path("bb.tar"), 0, 0, addBusybox) }

// compressor is a program that makes the layers of a base image.
type compressor struct {
	name      string // of the layout directory
	suffix    string
	mediaType string
	argv      []string // from standard input to standard output
}

// baseLayout makes an OCI layout called base-NAME, with the tag base, from
// plain layer tars in the area. The blobs are also there as base-NAME.N.SUFFIX, for the programs beside.
func baseLayout(ctx context.Context, a *area, c compressor, tars []string) error {
	blobs := a.path("base-" + c.name + "/blobs/sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return fmt.Errorf("make layout: %w", err)
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, name := range tars {
		file := a.path(fmt.Sprintf("base-%s.%d.%s", c.name, i, c.suffix))
		diffID, d, err := compressLayer(ctx, a.path(name), file, c.argv)
		if err != nil {
			return err
		}
		d.MediaType = c.mediaType
		if err := os.Link(file, filepath.Join(blobs, d.Digest.Encoded())); err != nil {
			return fmt.Errorf("make layout: %w", err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		manifest.Layers = append(manifest.Layers, d)
	}
	var err1, err2 error
	manifest.Config, err1 = document(blobs, ocispec.MediaTypeImageConfig, config)
	m, err2 := document(blobs, ocispec.MediaTypeImageManifest, manifest)
	m.Annotations = map[string]string{ocispec.AnnotationRefName: "base"}
	index, err3 := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{m}})
	return errors.Join(err1, err2, err3,
		a.write("base-"+c.name+"/index.json", string(index)),
		a.write("base-"+c.name+"/oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
	)
}

// compressLayer makes the blob of a layer.
func compressLayer(ctx context.Context, src, dst string, argv []string) (digest.Digest, ocispec.Descriptor, error) {
	in, err := os.Open(src)
	if err != nil {
		return "", ocispec.Descriptor{}, fmt.Errorf("compress layer: %w", err)
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return "", ocispec.Descriptor{}, fmt.Errorf("compress layer: %w", err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	plain := sha256.New()
	blob := sha256.New()
	size := &counter{}
	cmd.Stdin = io.TeeReader(in, plain)
	cmd.Stdout = io.MultiWriter(out, blob, size)
	if err := cmd.Run(); err != nil {
		return "", ocispec.Descriptor{}, fmt.Errorf("compress layer with %s: %w", argv[0], err)
	}
	return digest.NewDigest(digest.SHA256, plain), ocispec.Descriptor{Digest: digest.NewDigest(digest.SHA256, blob), Size: size.n}, nil
}

// document writes a JSON blob.
func document(blobs, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make layout: %w", err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := os.WriteFile(filepath.Join(blobs, d.Digest.Encoded()), data, 0o644); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make layout: %w", err)
	}
	return d, nil
}

// counter counts bytes.
type counter struct{ n int64 }

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
