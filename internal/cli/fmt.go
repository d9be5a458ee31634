// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/progress"
)

type fmtOptions struct{ list, diff, write bool }

func (a *app) fmtCommand() *cobra.Command {
	var o fmtOptions
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "put stacker.yaml files into their usual form",
		Long: "fmt prints build files (stacker.yaml where none is named, - for the standard input) with keys in their usual\n" +
			"order and two spaces for each level. Comments, texts and placeholders stay. With -l and -d it exits with 1 if\n" +
			"a file is not in that form.",
		RunE: func(_ *cobra.Command, args []string) error { return a.fmt(o, args) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.list, "list", "l", false, "print the names of files that are not in the usual form")
	f.BoolVarP(&o.diff, "diff", "d", false, "print what would change")
	f.BoolVarP(&o.write, "write", "w", false, "write the files in place")
	return cmd
}

func (a *app) fmt(o fmtOptions, files []string) error {
	if len(files) == 0 {
		files = []string{"stacker.yaml"}
	}
	differs := false
	for _, name := range files {
		d, err := a.fmtFile(o, name)
		if err != nil {
			return err
		}
		differs = differs || d
	}
	if differs && (o.list || o.diff) && !o.write {
		return exitStatus(1)
	}
	return nil
}

func (a *app) fmtFile(o fmtOptions, name string) (differs bool, err error) {
	var data []byte
	real := ""
	if name == "-" {
		data, err = io.ReadAll(io.LimitReader(a.std.In, stackerfile.MaxFileSize))
	} else if real, err = filepath.EvalSymlinks(name); err == nil {
		data, err = atomicfile.ReadRegular(real, stackerfile.MaxFileSize)
	}
	if err != nil {
		return false, fmt.Errorf("read build file: %w", err)
	}
	out, err := stackerfile.Format(name, data)
	if err != nil {
		return false, err
	}
	differs = !bytes.Equal(data, out)
	safe := progress.NewSafeWriter(a.std.Out, false)
	if differs && o.list {
		fmt.Fprintln(safe, name)
	}
	if differs && o.diff {
		_, err = safe.Write(diff.Diff(name+" as it is", data, name, out))
	}
	if err == nil && differs && o.write && name != "-" {
		err = writeInPlace(real, out)
	}
	if err == nil && !o.list && !o.diff && (!o.write || name == "-") {
		_, err = a.std.Out.Write(out)
	}
	return differs, err
}

// writeInPlace exchanges a file's content and keeps its mode.
func writeInPlace(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("write build file: %w", err)
	}
	return atomicfile.Write(path, data, info.Mode().Perm(), atomicfile.Sync)
}
