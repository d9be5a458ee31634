// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/state"
)

func (a *app) gcCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "the same as prune without options",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.prune(cmd.Context(), state.PruneOptions{UnusedSince: a.now().Add(-keepUnused)})
		},
	}
}

// keepUnused is how long results are kept that nobody uses.
const keepUnused time.Duration = 30 * 24 * time.Hour
