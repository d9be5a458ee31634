// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/state"
)

func (a *app) duCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "du",
		Short: "show what takes space in the state directory, and why",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.du(cmd.Context()) },
	}
}

func (a *app) du(ctx context.Context) error {
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	u, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	return a.printUsage(a.std.Out, u)
}

func (a *app) printUsage(out io.Writer, u state.Usage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST USED\tDESCRIPTION")
	for _, e := range u.Entries {
		used := "never"
		if !e.Used.IsZero() {
			used = progress.Duration(time.Since(e.Used)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%t\t%s\t%s\t%s\n", e.ID, e.Reclaimable, progress.Bytes(e.Bytes), used, e.Description)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "Reclaimable:\t%s\nTotal:\t\t%s\n", progress.Bytes(u.Reclaimable()), progress.Bytes(u.Total()))
	return err
}

func (a *app) pruneCommand() *cobra.Command {
	var o state.PruneOptions
	var all bool
	var until time.Duration
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "remove from the state directory what nothing needs",
		Long: "prune removes what no kept result needs: left-overs, unpacked layers of images that\n" +
			"are not used any more, results not used for a while. It waits for running builds.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				until = 0
			}
			o.UnusedSince = time.Now().Add(-until)
			return a.prune(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove everything that no build uses at this moment")
	cmd.Flags().DurationVar(&until, "unused-for", keepUnused, "remove results that were not used for this long")
	return cmd
}

func (a *app) prune(ctx context.Context, o state.PruneOptions) error {
	o.Dir, o.Plan = a.settings.stateDir, plan
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
