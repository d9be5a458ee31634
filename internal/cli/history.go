// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/transfer"
)

type historyOptions struct {
	noTrunc, quiet, explain bool
	format, platform        string
}

func (a *app) historyCommand() *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use:   "history IMAGE",
		Short: "show the steps that made an image, and what each adds to its size",
		Long: "history lists the steps, the newest first. Sizes are those of the layers as they are stored and sent.\n" +
			"--explain unpacks the layers in memory and names what makes them big.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.history(cmd.Context(), o, args[0]) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.noTrunc, "no-trunc", false, "print whole commands")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print digests of layers only")
	alwaysSo(f, "human", "H") // sizes and times are for people
	f.BoolVar(&o.explain, "explain", false, "say how many files and bytes each layer has, its biggest files, and what later layers replace")
	f.StringVar(&o.format, "format", "", "table, json, or a Go template of .Created .CreatedBy .Comment .Size .Digest .Empty")
	f.StringVar(&o.platform, "platform", "", "OS/ARCH[/VARIANT] of the image (default: this machine's)")
	return cmd
}

// stepRow is one step of an image's history.
type stepRow struct {
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"createdBy,omitempty"`
	Comment   string     `json:"comment,omitempty"`
	Empty     bool       `json:"emptyLayer,omitempty"`
	Bytes     int64      `json:"size"` // of the layer's blob
	Size      string     `json:"-"`
	Digest    string     `json:"digest,omitempty"`

	layer *ocispec.Descriptor
}

func (a *app) history(ctx context.Context, o historyOptions, what string) error {
	want := image.HostPlatform()
	if o.platform != "" {
		var err error
		if want, err = image.ParsePlatform(o.platform); err != nil {
			return fmt.Errorf("--platform: %w", err)
		}
	}
	return a.looking(ctx, what, func(f found) error {
		d, err := transfer.Choose(ctx, f, f.image, want)
		if errors.Is(err, image.ErrNoPlatform) && o.platform == "" {
			return fmt.Errorf("%w: choose with --platform", err)
		}
		if err != nil {
			return err
		}
		m, err := transfer.ReadManifest(ctx, f, d)
		if err != nil {
			return err
		}
		_, c, err := transfer.ReadConfig(ctx, f, m)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		rows := historyRows(m, c)
		if o.explain {
			err = explainSizes(ctx, &out, f, rows)
		} else {
			err = o.print(&out, rows, a.now())
		}
		if err != nil {
			return err
		}
		_, err = progress.NewSafeWriter(a.std.Out, false).Write(out.Bytes())
		return err
	})
}

// looking opens an image for reading only.
func (a *app) looking(ctx context.Context, what string, do func(found) error) error {
	l, err := parseLocation(what)
	if err != nil {
		return err
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	f, err := a.find(ctx, a.exporter(s, a.builder(ctx, s), nil), l, false)
	if err != nil {
		return err
	}
	defer f.close()
	return do(f)
}

// historyRows puts history and layers together, the newest first.
func historyRows(m ocispec.Manifest, c image.Config) []stepRow {
	var rows []stepRow
	layers := m.Layers
	for _, h := range c.History {
		r := stepRow{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment, Empty: h.EmptyLayer}
		if !h.EmptyLayer && len(layers) > 0 {
			r.layer, layers = &layers[0], layers[1:]
		}
		rows = append(rows, r)
	}
	for i := range layers { // the history does not tell of all
		rows = append(rows, stepRow{Comment: "<not in the history>", layer: &layers[i]})
	}
	for i := range rows {
		if l := rows[i].layer; l != nil {
			rows[i].Bytes, rows[i].Digest = l.Size, string(l.Digest)
		}
		rows[i].Size = progress.Bytes(rows[i].Bytes)
	}
	slices.Reverse(rows)
	return rows
}

func (o historyOptions) print(out io.Writer, rows []stepRow, now time.Time) error {
	switch {
	case o.quiet:
		for _, r := range rows {
			fmt.Fprintln(out, cmp.Or(r.Digest, "<none>"))
		}
		return nil
	case !isTable(o.format):
		return printFormat(out, o.format, rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CREATED\tCREATED BY\tSIZE\tCOMMENT")
	for _, r := range rows {
		created := "<unknown>"
		if r.Created != nil {
			created = ago(now, *r.Created)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", created, o.cut(r.CreatedBy), r.Size, o.cut(r.Comment))
	}
	return w.Flush()
}

// cut makes a text one line, of at most 45 characters as docker does.
func (o historyOptions) cut(s string) string {
	const limit = 45
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); !o.noTrunc && len(r) > limit {
		s = string(r[:limit-1]) + "…"
	}
	return s
}

// biggest is how many files of a layer explainSizes names.
const biggest = 5

// maxNames bounds how many names of files are kept in memory.
const maxNames = 2_000_000

// inLayer is one file of a layer.
type inLayer struct {
	name string
	size int64
}

// explainSizes names what makes an image big, from the bottom up.
func explainSizes(ctx context.Context, out io.Writer, from transfer.Source, rows []stepRow) error {
	owner := map[string]int{} // the last layer with the file
	size := map[string]int64{}
	wasted := make([]int64, len(rows))
	var files [][]inLayer
	for i := len(rows) - 1; i >= 0; i-- {
		if rows[i].layer == nil {
			files = append(files, nil)
			continue
		}
		list, err := readLayer(ctx, from, *rows[i].layer)
		if err != nil {
			return err
		}
		files = append(files, list)
		for _, f := range list {
			name := f.name
			if base, ok := strings.CutPrefix(path.Base(name), ".wh."); ok {
				name = path.Join(path.Dir(name), base)
			}
			if by, ok := owner[name]; ok {
				wasted[by] += size[name]
			}
			owner[name], size[name] = i, f.size
		}
		if len(owner) > maxNames {
			return fmt.Errorf("image has more than %d files", maxNames)
		}
	}
	slices.Reverse(files)
	for i := len(rows) - 1; i >= 0; i-- {
		r := rows[i]
		if r.layer == nil {
			continue
		}
		var sum int64
		for _, f := range files[i] {
			sum += f.size
		}
		fmt.Fprintf(out, "%s  %s\n", r.Size, strings.Join(strings.Fields(cmp.Or(r.CreatedBy, r.Comment, "<unknown>")), " "))
		fmt.Fprintf(out, "    unpacked %s in %d files", progress.Bytes(sum), len(files[i]))
		if wasted[i] > 0 {
			fmt.Fprintf(out, "; %s of it is replaced or deleted by later steps", progress.Bytes(wasted[i]))
		}
		fmt.Fprintln(out)
		slices.SortStableFunc(files[i], func(x, y inLayer) int { return cmp.Compare(y.size, x.size) })
		for _, f := range files[i][:min(biggest, len(files[i]))] {
			if f.size > 0 {
				fmt.Fprintf(out, "    %10s  /%s\n", progress.Bytes(f.size), f.name)
			}
		}
	}
	return nil
}

// readLayer lists the files of a layer.
func readLayer(ctx context.Context, from transfer.Source, d ocispec.Descriptor) ([]inLayer, error) {
	if t, ok := image.ParseLayerType(d.MediaType); !ok || t.Archive != image.Tar {
		return nil, fmt.Errorf("layer %s: only tar layers can be explained, not %.100q", d.Digest, d.MediaType)
	}
	r, err := from.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	z, _, err := compress.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	t := tar.NewReader(z)
	var list []inLayer
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		list = append(list, inLayer{strings.TrimPrefix(path.Clean("/"+h.Name), "/"), h.Size})
		if len(list) > maxNames {
			return nil, fmt.Errorf("layer %s has more than %d files", d.Digest, maxNames)
		}
	}
}
