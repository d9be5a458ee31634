// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/progress"
)

type lintOptions struct {
	fileOptions
	format string
	strict bool
}

func (a *app) lintCommand() *cobra.Command {
	var o lintOptions
	cmd := &cobra.Command{
		Use:   "lint [FILE...]",
		Short: "say what is wrong or unwise in stacker.yaml files",
		Long: "lint reads build files (stacker.yaml where none is named) and builds nothing. It exits with 1 if it found\n" +
			"errors, with --strict also for warnings. A comment lint:ignore RULE silences a rule in its line, or in the next\n" +
			"line where it stands alone. docs/lint.md has the rules.",
		RunE: func(_ *cobra.Command, args []string) error { return a.lint(o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.format, "format", "text", "text, json or sarif")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 for warnings, too")
	o.substituteFlags(f)
	return cmd
}

func (a *app) lint(o lintOptions, files []string) error {
	if len(files) == 0 {
		files = []string{"stacker.yaml"}
	}
	l, err := a.loadOptions(o.fileOptions)
	if err != nil {
		return err
	}
	found, err := stackerfile.Lint(files, l, func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	})
	if err != nil {
		return err
	}
	switch o.format {
	case "text":
		err = a.lintText(found)
	case "json":
		err = a.printJSON(lintJSON(found))
	case "sarif":
		err = a.printJSON(sarif(found))
	default:
		err = fmt.Errorf("--format %s: it is text, json or sarif", o.format)
	}
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.Rule.Severity == stackerfile.SeverityError || o.strict && f.Rule.Severity == stackerfile.SeverityWarning {
			return exitStatus(1)
		}
	}
	return nil
}

func (a *app) lintText(found []stackerfile.Finding) error {
	var b strings.Builder
	for _, f := range found {
		e := *f.Error
		e.Msg = fmt.Sprintf("%s: %s [%s]", f.Rule.Severity, e.Msg, f.Rule.ID)
		fmt.Fprintln(&b, e.Detail())
	}
	_, err := progress.NewSafeWriter(a.std.Out, false).Write([]byte(b.String()))
	return err
}

// lintFinding is one element of the list that --format json prints.
type lintFinding struct {
	Rule     string               `json:"rule"`
	Severity stackerfile.Severity `json:"severity"`
	File     string               `json:"file,omitempty"`
	Line     int                  `json:"line,omitempty"`   // from 1
	Column   int                  `json:"column,omitempty"` // from 1, in characters
	Message  string               `json:"message"`
	Hint     string               `json:"hint,omitempty"`
}

func lintJSON(found []stackerfile.Finding) []lintFinding {
	list := []lintFinding{}
	for _, f := range found {
		p := f.Error.Pos
		list = append(list, lintFinding{f.Rule.ID, f.Rule.Severity, p.File, p.Line, p.Column, f.Error.Msg, f.Error.Hint})
	}
	return list
}

func (a *app) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode findings: %w", err)
	}
	_, err = a.std.Out.Write(append(data, '\n'))
	return err
}
