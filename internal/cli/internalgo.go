// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/shell"
)

// Exit statuses of internal-go that scripts know.
const (
	statusNoOverlay  = 50
	statusNoAppArmor = 52
)

// internalCommand has the helpers that earlier versions ran in containers, and
// that test suites of their users call; and su-exec, which converted Dockerfiles use.
func (a *app) internalCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "internal-go", Short: "helpers for scripts", Hidden: true, Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("internal-go: name a helper: testsuite-check-overlay, copy, cp, chmod, chown, check-aa-profile or atomfs")
		}
		return &unknownCommand{name: "internal-go " + args[0]}
	}}
	cmd.AddCommand(
		&cobra.Command{
			Use: "testsuite-check-overlay", Short: "exit with 50 if steps cannot run here", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return a.checkOverlay(cmd.Context()) },
		},
		&cobra.Command{
			Use: "copy SRC DST", Short: "copy an image: oci:DIRECTORY:TAG or docker://REFERENCE", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return a.copyImage(cmd.Context(), args[0], args[1]) },
		},
		a.atomfsCommand(),
		a.utility("cp SRC DST", "copy a file or a directory", "cp", "-a"),
		a.utility("chmod OCTAL FILE", "change the mode of a file", "chmod"),
		a.utility("chown UID[:GID] FILE", "change the owner of a file", "chown"),
		&cobra.Command{
			Use: "su-exec USER[:GROUP] COMMAND...", Short: "run a command as a user", DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error { return a.utilityStatus(cmd.Context(), "su-exec", args) },
		},
		&cobra.Command{
			Use: "check-aa-profile PROFILE", Short: "exit with 52 without AppArmor", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return a.checkProfile(args[0]) },
		},
	)
	return cmd
}

// utility runs one of the program's core utilities.
func (a *app) utility(use, short string, command ...string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.utilityStatus(cmd.Context(), command[0], append(append(append([]string(nil), command[1:]...), "--"), args...))
		},
	}
}

// utilityStatus runs a core utility for its exit status.
func (a *app) utilityStatus(ctx context.Context, name string, args []string) error {
	if code := shell.Main(ctx, append([]string{name}, args...), a.std.In, a.std.Out, a.std.Err); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// checkOverlay tries what steps need.
func (a *app) checkOverlay(ctx context.Context) error {
	problem, err := a.stepProblem(ctx)
	if err != nil {
		return err
	}
	if problem != "" {
		fmt.Fprintln(a.std.Err, "overlay is not usable here: "+problem)
		return exitStatus(statusNoOverlay)
	}
	return nil
}

// stepProblem says why steps cannot run here, or nothing.
func (a *app) stepProblem(ctx context.Context) (string, error) {
	if _, err := a.plan(); err != nil {
		return err.Error(), nil
	}
	s, err := a.openState(ctx)
	if err != nil {
		return "", err
	}
	w, err := s.Worker(ctx)
	if err != nil {
		return err.Error(), nil
	}
	r, err := w.Probe(ctx)
	if err != nil {
		return "", err
	}
	if r.Whiteout != "" {
		return "can't create overlay whiteouts (use a kernel >= 5.8): " + r.Whiteout, nil
	}
	return r.Exec, nil
}

// checkProfile asks the kernel to change to an AppArmor profile, as a container's
// start would.
func (a *app) checkProfile(profile string) error {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		fmt.Fprintln(a.std.Err, "AppArmor is not enabled")
		return exitStatus(statusNoAppArmor)
	}
	if err := os.WriteFile("/proc/self/attr/current", []byte("changeprofile "+profile), 0); err != nil {
		return fmt.Errorf("change to AppArmor profile %s: %w", profile, err)
	}
	return nil
}
