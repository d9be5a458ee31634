// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/state"
)

type usageOptions struct {
	verbose bool
	format  string
	filters []string
}

func (a *app) duCommand() *cobra.Command {
	var o usageOptions
	cmd := &cobra.Command{
		Use:   "du",
		Short: "show what takes space in the state directory, and why",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.du(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.verbose, "verbose", "v", false, "print each entry as a block of lines")
	f.StringVar(&o.format, "format", "", "table, json, or a Go template of .ID .Kind .Description .Bytes .Size .Reclaimable .Used .Made")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "id=PREFIX, kind=tree|files|blob|partial, reclaimable=true|false or unused-for=DURATION (may be repeated)")
	return cmd
}

func (a *app) du(ctx context.Context, o usageOptions) error {
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	keep, err := entryFilter(o.filters, a.now())
	if err != nil {
		return err
	}
	u, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	u.Entries = slices.DeleteFunc(u.Entries, func(e state.Entry) bool { return !keep(e) })
	var out bytes.Buffer
	switch {
	case !isTable(o.format):
		err = printFormat(&out, o.format, usageRows(u))
	case o.verbose || a.settings.debug:
		err = a.printBlocks(&out, u)
	default:
		err = a.printUsage(&out, u)
		printAdvice(&out, u)
	}
	if err != nil {
		return err
	}
	_, err = progress.NewSafeWriter(a.std.Out, false).Write(out.Bytes())
	return err
}

// usageRow is an entry for JSON and templates.
type usageRow struct {
	ID          string     `json:"id"`
	Kind        state.Kind `json:"kind"`
	Description string     `json:"description"`
	Bytes       int64      `json:"bytes"`
	Size        string     `json:"-"`
	Reclaimable bool       `json:"reclaimable"`
	Used        time.Time  `json:"used,omitzero"`
	Made        time.Time  `json:"made,omitzero"`
}

func usageRows(u state.Usage) []usageRow {
	rows := []usageRow{}
	for _, e := range u.Entries {
		rows = append(rows, usageRow{e.ID, e.Kind, e.Description, e.Bytes, progress.Bytes(e.Bytes), e.Reclaimable, e.Used, e.Made})
	}
	return rows
}

// entryFilter makes one question of the filters.
func entryFilter(filters []string, now time.Time) (func(state.Entry) bool, error) {
	var tests []func(state.Entry) bool
	for _, f := range filters {
		k, v, ok := strings.Cut(f, "=")
		if !ok || v == "" {
			return nil, fmt.Errorf("--filter %q: write KEY=VALUE", f)
		}
		switch k {
		case "id":
			tests = append(tests, func(e state.Entry) bool { return strings.HasPrefix(e.ID, v) })
		case "kind", "type":
			tests = append(tests, func(e state.Entry) bool { return string(e.Kind) == v })
		case "reclaimable":
			want, err := strconv.ParseBool(v)
			if err != nil {
				return nil, fmt.Errorf("--filter %s: it is true or false", f)
			}
			tests = append(tests, func(e state.Entry) bool { return e.Reclaimable == want })
		case "unused-for", "until":
			d, err := time.ParseDuration(v)
			if err != nil {
				return nil, fmt.Errorf("--filter %s: write a duration like 24h", f)
			}
			tests = append(tests, func(e state.Entry) bool { return e.Used.Before(now.Add(-d)) })
		default:
			return nil, fmt.Errorf("--filter %s: the keys are id, kind, reclaimable and unused-for", f)
		}
	}
	return func(e state.Entry) bool {
		return !slices.ContainsFunc(tests, func(t func(state.Entry) bool) bool { return !t(e) })
	}, nil
}

// printBlocks prints every entry as lines of a name and a value.
func (a *app) printBlocks(out io.Writer, u state.Usage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range u.Entries {
		fmt.Fprintf(w, "ID:\t%s\nKind:\t%s\nReclaimable:\t%t\nSize:\t%s\nDescription:\t%s\n", e.ID, e.Kind, e.Reclaimable, progress.Bytes(e.Bytes), e.Description)
		if !e.Made.IsZero() {
			fmt.Fprintf(w, "Created at:\t%s\n", e.Made.UTC().Format(time.RFC3339))
		}
		if !e.Used.IsZero() {
			fmt.Fprintf(w, "Last used:\t%s\n", e.Used.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printTotals(out, u)
}

func printTotals(out io.Writer, u state.Usage) error {
	_, err := fmt.Fprintf(out, "Reclaimable:\t%s\nTotal:\t\t%s\n", progress.Bytes(u.Reclaimable()), progress.Bytes(u.Total()))
	return err
}

// printAdvice says who frees how much of what was listed.
func printAdvice(out io.Writer, u state.Usage) {
	if u.Total() == 0 {
		return
	}
	fmt.Fprintf(out, "\n\"stacker prune\" frees %s, and what builds did not use for %s\n", progress.Bytes(u.Reclaimable()), days(keepUnused))
	if n := u.Unnamed(); n > 0 {
		fmt.Fprintf(out, "\"stacker prune --all\" frees %s: also what steps made, and cache mounts, for the next build to make again\n", progress.Bytes(n))
	}
	if n := u.Total() - u.Unnamed(); n > 0 {
		fmt.Fprintf(out, "images with a name hold %s: \"stacker rm NAME\" and then \"stacker prune\" frees what no other one needs\n", progress.Bytes(n))
	}
}

// days says a time of some days.
func days(d time.Duration) string { return fmt.Sprintf("%d days", d/(24*time.Hour)) }

func (a *app) printUsage(out io.Writer, u state.Usage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST USED\tKIND\tDESCRIPTION")
	for _, e := range u.Entries {
		used := "never"
		if !e.Used.IsZero() {
			used = progress.Duration(time.Since(e.Used)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%t\t%s\t%s\t%s\t%s\n", e.ID, e.Reclaimable, progress.Bytes(e.Bytes), used, e.Kind, e.Description)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printTotals(out, u)
}

type pruneFlags struct {
	all, force bool
	unused     time.Duration
	keep       string
	filters    []string
}

func (a *app) pruneCommand() *cobra.Command {
	var o pruneFlags
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "remove from the state directory what nothing needs",
		Long: "prune removes what no image and no kept result needs: left-overs, unpacked layers of images that are\n" +
			"not used any more, results not used for a while, images without a name. Images with a name stay: stacker\n" +
			"rm removes them. It waits for running builds.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := o.options(a.now())
			if err != nil {
				return err
			}
			return a.prune(cmd.Context(), p)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "remove everything that no build uses at this moment and no named image needs")
	f.BoolVarP(&o.force, "force", "f", false, "accepted as docker's: there is no question to answer")
	f.DurationVar(&o.unused, "unused-for", keepUnused, "remove results that were not used for this long")
	f.StringVar(&o.keep, "keep-storage", "", "remove results, those not used for the longest time first, until no more than this is left: 500MB, 10GB")
	f.StringArrayVar(&o.filters, "filter", nil, "until=DURATION or unused-for=DURATION: the same as --unused-for")
	return cmd
}

// options reads the flags. A limit of space alone says nothing about age.
func (o pruneFlags) options(now time.Time) (state.PruneOptions, error) {
	var p state.PruneOptions
	for _, f := range o.filters {
		k, v, _ := strings.Cut(f, "=")
		if k != "until" && k != "unused-for" {
			return p, fmt.Errorf("--filter %s: the keys are until and unused-for", f)
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return p, fmt.Errorf("--filter %s: write a duration like 24h", f)
		}
		o.unused = d
	}
	if o.all {
		o.unused = 0
	}
	if o.unused < 0 {
		return p, fmt.Errorf("--unused-for %s: it is in the future", o.unused)
	}
	p.UnusedSince = now.Add(-o.unused)
	if o.keep != "" {
		n, err := parseBytes(o.keep)
		if err != nil {
			return p, fmt.Errorf("--keep-storage: %w", err)
		}
		p.Keep = &n
	}
	return p, nil
}

// parseBytes reads a number of bytes as docker's flags have it: KB is 1000, KiB and
// K are 1024.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "bBiIkKmMgGtT ")
	n, err := strconv.ParseFloat(digits, 64)
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	exponent := 0
	if unit != "" {
		exponent = strings.IndexByte("bkmgt", unit[0])
	}
	if err != nil || n < 0 || exponent < 0 {
		return 0, fmt.Errorf("%q is no size: write a number with B, KB, MB, GB or TB", s)
	}
	base := 1024.0
	if len(unit) == 2 {
		base = 1000
	}
	n *= math.Pow(base, float64(exponent))
	if n > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(n), nil
}

func (a *app) prune(ctx context.Context, o state.PruneOptions) error {
	o.Dir, o.Plan = a.settings.stateDir, a.plan
	o.OnWait = func() { fmt.Fprintln(a.std.Err, "waiting for running builds to end") }
	removed, err := state.Prune(ctx, o)
	if len(removed.Entries) > 0 {
		if perr := a.printUsage(a.std.Out, removed); err == nil {
			err = perr
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(a.std.Out, "Reclaimed:\t%s\n", progress.Bytes(removed.Total()))
	}
	return err
}
