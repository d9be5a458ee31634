// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/template"
)

type listOptions struct {
	filters []string
	format  string
	json    bool
	quiet   bool
	noTrunc bool
}

func (a *app) imagesCommand() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [NAME]",
		Aliases: []string{"images", "list"},
		Short:   "list the images of the local store",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.list(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "reference=PATTERN, dangling=true|false, before=IMAGE, since=IMAGE or until=DURATION (may be repeated)")
	f.StringVar(&o.format, "format", "", "table, json, or a Go template of .Name .Repository .Tag .ID .Digest .Size .CreatedAt .UpdatedAt")
	f.BoolVar(&o.json, "json", false, "the same as --format json")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print digests only")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "print whole digests")
	alwaysSo(f, "all", "a")    // there are no images between
	alwaysSo(f, "digests", "") // the table has them
	return cmd
}

// alwaysSo adds a switch of docker's that asks for what is done anyway. It is no help to
// anybody, and not shown.
func alwaysSo(f *pflag.FlagSet, name, short string) {
	f.BoolP(name, short, true, "accepted as docker's")
	f.Lookup(name).Hidden = true
}

// noName stands where an image has none.
const noName = "<none>"

// listed is an image as ls prints it, with docker's words for templates.
type listed struct {
	Name       string        `json:"name"`
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	ID         digest.Digest `json:"id"` // of the config
	Digest     digest.Digest `json:"digest"`
	Bytes      int64         `json:"size"`
	Size       string        `json:"-"`
	CreatedAt  time.Time     `json:"createdAt"`
	UpdatedAt  time.Time     `json:"updatedAt"`
}

func (a *app) list(ctx context.Context, o listOptions, args []string) error {
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	keep, err := a.imageFilter(ctx, s, o.filters, args)
	if err != nil {
		return err
	}
	all, err := s.Images.List()
	if err != nil {
		return err
	}
	rows := []listed{}
	for _, i := range all {
		if !keep(i) {
			continue
		}
		r, err := describeImage(ctx, s, i)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	if o.json {
		o.format = "json"
	}
	var out bytes.Buffer
	if err := o.print(&out, rows, a.now()); err != nil {
		return err
	}
	_, err = progress.NewSafeWriter(a.std.Out, false).Write(out.Bytes())
	return err
}

func describeImage(ctx context.Context, s *state.State, i images.Image) (listed, error) {
	size, err := s.Images.Size(ctx, i)
	l := listed{
		Name: i.Name, Digest: i.Descriptor.Digest, ID: s.Images.ConfigOf(ctx, i), Bytes: size, Size: progress.Bytes(size),
		CreatedAt: i.Created, UpdatedAt: i.Updated,
	}
	if ref, err := reference.Parse(i.Name); err == nil {
		l.Repository, l.Tag = ref.Name(), ref.Tag
	}
	if i.Name == "" { // as docker's templates have it
		l.Repository, l.Tag = noName, noName
	}
	return l, err
}

// print writes the images in the form that was asked for.
func (o listOptions) print(out io.Writer, rows []listed, now time.Time) error {
	id := func(d digest.Digest) string {
		if o.noTrunc {
			return string(d)
		}
		return d.Encoded()[:12]
	}
	switch {
	case o.quiet:
		seen := map[digest.Digest]bool{}
		for _, r := range rows {
			if !seen[r.Digest] {
				seen[r.Digest] = true
				fmt.Fprintln(out, id(r.Digest))
			}
		}
		return nil
	case !isTable(o.format):
		return printFormat(out, o.format, rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSIZE\tCREATED AT\tUPDATED AT\tDIGEST")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(r.Name, noName), r.Size, ago(now, r.CreatedAt), ago(now, r.UpdatedAt), r.Digest)
	}
	return w.Flush()
}

// isTable tells whether --format asks for the table of columns.
func isTable(format string) bool { return format == "" || format == "table" }

// printFormat prints rows as another --format says: as JSON, or by a Go template.
func printFormat[T any](out io.Writer, format string, rows []T) error {
	if format != "json" {
		return printTemplate(out, format, rows)
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}

// printTemplate executes a Go template for each row.
func printTemplate[T any](out io.Writer, format string, rows []T) error {
	t, err := template.Parse("format", strings.TrimPrefix(format, "table "))
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	for _, r := range rows {
		if err := t.Execute(out, r); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// ago is how long ago something was.
func ago(now, t time.Time) string { return progress.Duration(max(0, now.Sub(t))) + " ago" }

// imageFilter makes one question of the filters.
func (a *app) imageFilter(ctx context.Context, s *state.State, filters, names []string) (func(images.Image) bool, error) {
	var tests []func(images.Image) bool
	for _, n := range names {
		filters = append(filters, "reference="+n)
	}
	for _, f := range filters {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("--filter %q: write KEY=VALUE", f)
		}
		switch k {
		case "reference":
			if _, err := path.Match(v, ""); err != nil {
				return nil, fmt.Errorf("--filter %s: %w", f, err)
			}
			tests = append(tests, func(i images.Image) bool { return matchesName(i, v) })
		case "dangling":
			if v != "true" && v != "false" {
				return nil, fmt.Errorf("--filter %s: it is true or false", f)
			}
			tests = append(tests, func(i images.Image) bool { return (i.Name == "") == (v == "true") })
		case "before", "since":
			other, err := s.Images.Find(ctx, v)
			if err != nil {
				return nil, fmt.Errorf("--filter %s: %w", f, err)
			}
			tests = append(tests, func(i images.Image) bool {
				return k == "before" && i.Updated.Before(other.Updated) || k == "since" && i.Updated.After(other.Updated)
			})
		case "until":
			d, err := time.ParseDuration(v)
			if err != nil {
				return nil, fmt.Errorf("--filter %s: write a duration like 24h", f)
			}
			limit := a.now().Add(-d)
			tests = append(tests, func(i images.Image) bool { return i.Updated.Before(limit) })
		default:
			return nil, fmt.Errorf("--filter %s: the keys are reference, dangling, before, since and until", f)
		}
	}
	return func(i images.Image) bool {
		return !slices.ContainsFunc(tests, func(t func(images.Image) bool) bool { return !t(i) })
	}, nil
}

// matchesName compares a pattern with the forms of a name: with and without tag, in
// full and as people write it.
func matchesName(i images.Image, pattern string) bool {
	ref, err := reference.Parse(i.Name)
	if err != nil {
		return false
	}
	bare := ref
	bare.Tag, bare.Digest = "latest", ""
	familiar := strings.TrimSuffix(bare.Familiar(), ":latest")
	for _, form := range []string{ref.String(), ref.Familiar(), ref.Name(), familiar, familiar + ":" + ref.Tag} {
		if ok, _ := path.Match(pattern, form); ok { // the pattern was checked
			return true
		}
	}
	return false
}
