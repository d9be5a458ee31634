// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

type importOptions struct {
	changes  []string
	message  string
	platform string
}

func (a *app) importCommand() *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE|- [NAME]",
		Short: "make an image of one layer from a tar archive of files",
		Args:  cobra.RangeArgs(1, 2),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.importTar(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.changes, "change", "c", nil, "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR as in a Dockerfile (may be repeated)")
	f.StringVarP(&o.message, "message", "m", "", "comment in the history of the image")
	f.StringVar(&o.platform, "platform", "", "OS/ARCH[/VARIANT] of the image (default: this machine's)")
	return cmd
}

func (a *app) importTar(ctx context.Context, o importOptions, args []string) error {
	c := image.Config{Platform: image.HostPlatform().OCI()}
	if o.platform != "" {
		p, err := image.ParsePlatform(o.platform)
		if err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
		c.Platform = p.OCI()
	}
	for _, change := range o.changes {
		if err := applyChange(&c.Config, change); err != nil {
			return fmt.Errorf("--change %q: %w", change, err)
		}
	}
	names, err := newNames(args[1:])
	if err != nil {
		return err
	}
	in := a.std.In
	if args[0] != "-" {
		if in, err = os.Open(args[0]); err != nil {
			return err
		}
		defer in.Close()
	} else if term.IsTerminal(int(in.Fd())) {
		return errors.New("refusing to read an archive from a terminal: redirect the standard input")
	}
	return a.transferring(ctx, func(s *state.State, e *export.Exporter) error {
		layer, diffID, err := importLayer(ctx, e.Store(), in)
		if err != nil {
			return fmt.Errorf("import %s: %w", args[0], err)
		}
		now := a.now().UTC().Truncate(time.Second)
		if a.settings.sourceEpoch != nil {
			now = *a.settings.sourceEpoch
		}
		c.Created = &now
		c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}
		comment := o.message
		if comment == "" {
			comment = "Imported from " + args[0]
		}
		c.History = []ocispec.History{{Created: &now, Comment: comment}}
		d, err := putImage(ctx, e.Store(), c, layer)
		if err != nil {
			return err
		}
		if err := s.Images.Set(d, a.now(), names...); err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.std.Out, d.Digest)
		return err
	})
}

// putImage writes config and manifest.
func putImage(ctx context.Context, to transfer.Destination, c image.Config, layer ocispec.Descriptor) (ocispec.Descriptor, error) {
	docs := transfer.Bytes{}
	data, err := image.Marshal(c)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: docs.Add(data, ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{layer}}
	m.SchemaVersion = 2
	if data, err = image.Marshal(m); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := docs.Add(data, m.MediaType)
	if err := to.Put(ctx, m.Config, docs); err != nil {
		return d, err
	}
	return d, to.Put(ctx, d, docs)
}

// importLayer reads an archive, in whatever compression, and stores it as a gzip
// layer, in one pass. What is no archive is refused.
func importLayer(ctx context.Context, to transfer.Destination, in io.Reader) (layer ocispec.Descriptor, diffID digest.Digest, err error) {
	maker, ok := to.(transfer.Maker)
	if !ok {
		return layer, "", errors.New("the store cannot make blobs")
	}
	plain, _, err := compress.NewReader(in)
	if err != nil {
		return layer, "", err
	}
	defer plain.Close()
	layer, err = maker.Make(ctx, func(f *os.File) (ocispec.Descriptor, error) {
		sum, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
		counted := &counting{w: io.MultiWriter(f, sum.Hash())}
		z, err := compress.NewWriter(counted, compress.Gzip, compress.WriterOptions{})
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		err = readMembers(io.TeeReader(plain, io.MultiWriter(z, diff.Hash())))
		if err = errors.Join(err, z.Close()); err != nil {
			return ocispec.Descriptor{}, err
		}
		diffID = diff.Digest()
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: sum.Digest(), Size: counted.n}, nil
	})
	return layer, diffID, err
}

// readMembers reads an archive to its end.
func readMembers(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		_, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return fmt.Errorf("it is no tar archive: %w", err)
		}
	}
}

// counting counts what it writes.
type counting struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// applyChange applies one instruction to a config.
func applyChange(c *image.RunConfig, change string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(change), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return errors.New("the instruction has no argument")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		c.Cmd = commandOf(rest)
	case "ENTRYPOINT":
		c.Entrypoint = commandOf(rest)
	case "ENV":
		k, v, ok := strings.Cut(rest, "=")
		if !ok || k == "" {
			return errors.New("write ENV KEY=VALUE")
		}
		c.Env = append(c.Env, k+"="+unquote(v))
	case "LABEL":
		k, v, ok := strings.Cut(rest, "=")
		if !ok || k == "" {
			return errors.New("write LABEL KEY=VALUE")
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[unquote(k)] = unquote(v)
	case "EXPOSE":
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for port := range strings.FieldsSeq(rest) {
			if !strings.Contains(port, "/") {
				port += "/tcp"
			}
			c.ExposedPorts[port] = struct{}{}
		}
	case "VOLUME":
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		var list []string
		if json.Unmarshal([]byte(rest), &list) != nil {
			list = strings.Fields(rest)
		}
		for _, v := range list {
			c.Volumes[v] = struct{}{}
		}
	case "USER":
		c.User = rest
	case "WORKDIR":
		c.WorkingDir = rest
	case "STOPSIGNAL":
		c.StopSignal = rest
	default:
		return errors.New("the instructions are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR")
	}
	return nil
}

// commandOf is a command as a Dockerfile has it: a JSON list, or words for the shell.
func commandOf(s string) []string {
	var list []string
	if json.Unmarshal([]byte(s), &list) == nil {
		return list
	}
	return []string{"/bin/sh", "-c", s}
}

// unquote takes a pair of quotes off.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}
