// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// searchOptions choose build files by a search.
type searchOptions struct{ dir, pattern string }

func (o *searchOptions) flags(f *pflag.FlagSet, dir string) {
	f.StringVarP(&o.dir, "search-dir", "d", dir, "look for build files in this directory and below")
	f.StringVarP(&o.pattern, "stacker-file-pattern", "p", `\/stacker.yaml$`, "regular expression for the paths of build files")
}

func (a *app) recursiveBuildCommand() *cobra.Command {
	var o buildOptions
	var search searchOptions
	cmd := &cobra.Command{
		Use:   "recursive-build",
		Short: "build the images of all stacker.yaml files in a directory and below",
		Long: "recursive-build builds every regular file whose path matches a pattern, and what these files need.\n" +
			"It does not follow symbolic links, and passes over the directories that builds write to.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.files, err = a.search(search); err != nil {
				return err
			}
			return a.build(cmd.Context(), o)
		},
	}
	search.flags(cmd.Flags(), ".")
	o.substituteFlags(cmd.Flags())
	o.flags(cmd.Flags())
	return cmd
}

// search finds build files: regular files whose path matches the pattern, in
// lexical order. Symbolic links are not followed. What builds left in their own
// directories is passed over: imports may be called like build files.
func (a *app) search(o searchOptions) ([]string, error) {
	if o.dir == "" {
		o.dir = "."
	}
	pattern, err := regexp.Compile(o.pattern)
	if err != nil {
		return nil, fmt.Errorf("--stacker-file-pattern: %w", err)
	}
	var own []string
	for _, dir := range []string{a.settings.stackerDir, a.settings.ociDir, a.settings.rootsDir, a.settings.stateDir} {
		own = append(own, realPath(dir))
	}
	root := realPath(o.dir)
	here := filepath.Clean(o.dir) == "."
	var found []string
	// The slash is for a directory that is given by a link.
	err = filepath.WalkDir(o.dir+string(filepath.Separator), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path = filepath.Clean(path)
		rel, err := filepath.Rel(o.dir, path)
		if err != nil {
			return err
		}
		real := filepath.Join(root, rel)
		if e.IsDir() {
			if slices.Contains(own, real) {
				return fs.SkipDir
			}
			return nil
		}
		match := path
		if here { // so that a file right here has a slash before its name, too
			match = real
		}
		if e.Type().IsRegular() && pattern.MatchString(match) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for build files: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no path in %s matches %s: choose another with --search-dir and --stacker-file-pattern",
			strings.TrimRight(o.dir, "/")+"/", o.pattern)
	}
	return found, nil
}
