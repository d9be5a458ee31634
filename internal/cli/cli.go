// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: one file per command, and the wiring of the
// packages below. It alone knows flags, environment variables and default
// paths, and it alone prints what is not progress.
//
// Exit statuses: 0; 1 for ordinary errors; 3 for an unknown command; 130 after
// an interrupt; chroot and grab give the status of what they ran.
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"build.stacker.dev/internal/nearest"
	"build.stacker.dev/internal/shell"
)

// Streams are the program's standard streams.
type Streams struct{ In, Out, Err *os.File }

// exitStatus is an error that only says how to exit; it was explained already.
type exitStatus int

// Error implements error.
func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the program and returns its exit status.
func Main(ctx context.Context, args []string, std Streams) int {
	if code, ok := applet(ctx, args, std); ok {
		return code
	}
	app := &app{std: std}
	root := app.command()
	root.SetArgs(newSpelling(root).normal(args[1:]))
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	if cerr := app.close(); err == nil {
		err = cerr
	}
	return app.report(ctx, err)
}

// applet is the shell or a core utility, where the program was called by one of
// their names: that is how steps without a shell of their own run.
func applet(ctx context.Context, args []string, std Streams) (int, bool) {
	name := filepath.Base(args[0])
	if name == "stacker" || !slices.Contains(shell.Names(), name) {
		return 0, false
	}
	return shell.Main(ctx, args, std.In, std.Out, std.Err), true
}

// report prints what went wrong, once, and chooses the exit status.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(a.std.Err, "error: interrupted")
		return 130
	}
	fmt.Fprintln(a.std.Err, "error: "+a.explainError(err))
	var unknown *unknownCommand
	if errors.As(err, &unknown) {
		return 3
	}
	return 1
}

// unknownCommand is a word that is no command.
type unknownCommand struct{ name, like string }

// Error implements error.
func (e *unknownCommand) Error() string {
	s := fmt.Sprintf("No help topic for '%s'", e.name)
	if e.like != "" {
		s += fmt.Sprintf(": did you mean %q?", e.like)
	}
	return s + "; see stacker --help"
}

// before is what every command does first.
func (a *app) before(cmd *cobra.Command) error {
	if err := a.settings.complete(cmd); err != nil {
		return err
	}
	if a.settings.warning != "" && !a.settings.quiet {
		fmt.Fprintln(a.std.Err, "warning: "+a.settings.warning)
	}
	return a.checkUser()
}

// explainArgs says of a command line with too few or too many words how it is
// written, for all commands.
func explainArgs(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		explainArgs(c)
	}
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if check(c, args) == nil {
			return nil
		}
		if _, _, any := strings.Cut(c.Use, " "); !any {
			return fmt.Errorf("incorrect usage: %s takes no arguments, but there is %q; see %s --help", c.CommandPath(), args[0], c.CommandPath())
		}
		return fmt.Errorf("incorrect usage: write %s %s; see %s --help", c.Parent().CommandPath(), c.Use, c.CommandPath())
	}
}

// help prints the help of the command that args name.
func help(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return &unknownCommand{name: strings.Join(args, " ")}
	}
	return cmd.Help()
}

// command is the root command.
func (a *app) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "stacker",
		Short:         "build OCI images as an ordinary user",
		Long:          "stacker builds OCI images as an ordinary user: no daemon, no root, nothing to set up.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       Version(),
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			e := &unknownCommand{name: args[0]}
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				e.like = s[0]
			}
			return e
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.before(cmd) },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.SetUsageFunc(usage(cmd.UsageFunc()))
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("incorrect usage: %w%s; see %s --help", err, likeFlag(c, err), c.CommandPath())
	})
	a.settings.flags(cmd.PersistentFlags())
	cmd.AddCommand(
		a.buildCommand(),
		a.recursiveBuildCommand(),
		a.publishCommand(),
		a.convertCommand(),
		a.chrootCommand(),
		a.grabCommand(),
		a.inspectCommand(),
		a.bomCommand(),
		a.cleanCommand(),
		a.checkCommand(),
		a.duCommand(),
		a.pruneCommand(),
		a.gcCommand(),
		a.unprivSetupCommand(),
		a.versionCommand(),
		a.unladeCommand(),
		a.fmtCommand(),
		a.lintCommand(),
		a.schemaCommand(),
		a.internalCommand(),
		a.loginCommand(),
		a.logoutCommand(), a.copyCommand(),
		a.imagesCommand(),
		a.pullCommand(),
		a.pushCommand(),
		a.tagCommand(),
		a.removeCommand(),
		a.saveCommand(),
		a.loadCommand(),
		a.importCommand(),
		a.unpackCommand(),
		a.historyCommand(),
	)
	ownWords(cmd)
	explainArgs(cmd)
	return cmd
}

// usage is what the library says of a command's use, with our word for commands. It
// is no template of the library's: those make the linker keep all methods of the
// program (see package template).
func usage(plain func(*cobra.Command) error) func(*cobra.Command) error {
	return func(cmd *cobra.Command) error {
		out := cmd.OutOrStderr()
		var b bytes.Buffer
		cmd.SetOut(&b)
		err := plain(cmd)
		cmd.SetOut(out)
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, strings.Replace(b.String(), "Available Commands:", "COMMANDS:", 1))
		return err
	}
}

// likeFlag guesses which flag was meant by one that is not known.
func likeFlag(c *cobra.Command, err error) string {
	word, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return ""
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := nearest.Word(word, names); near != "" {
		return " (did you mean --" + near + "?)"
	}
	return ""
}

// helpCommand takes the place of the library's, which accepts unknown words.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Aliases:           []string{"h"},
		Short:             "show what a command does and its flags",
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil }, // help is there whatever is wrong
		RunE:              func(_ *cobra.Command, args []string) error { return help(root, args) },
	}
}

// ownWords describes the commands that come with the library of the command line in
// the manner of all others.
func ownWords(root *cobra.Command) {
	root.SetHelpCommand(helpCommand(root))
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "print a script that completes commands and flags in a shell"
		c.Long = "completion prints a script for bash, zsh, fish or powershell. Its own help says how to load it."
		for _, shell := range c.Commands() {
			shell.Short = "print the script for " + shell.Name()
		}
	}
}
