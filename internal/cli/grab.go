// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) grabCommand() *cobra.Command {
	var o fileOptions
	cmd := &cobra.Command{
		Use:   "grab STAGE:PATH",
		Short: "copy a file or directory of a built stage to the current directory",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.grab(cmd.Context(), o, args[0]) },
	}
	o.flags(cmd.Flags())
	return cmd
}

func (a *app) grab(ctx context.Context, o fileOptions, what string) error {
	name, path, ok := strings.Cut(what, ":")
	if !ok || name == "" || path == "" {
		return fmt.Errorf("invalid grab argument: %s: write STAGE:PATH", what)
	}
	st, err := a.stage(ctx, o, name)
	if err != nil {
		return err
	}
	return st.builder.Grab(ctx, st.result, path, ".")
}
