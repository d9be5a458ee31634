// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// spelling knows how command lines of earlier versions, and of img, are written: a long
// flag may have one dash (-debug), --progress may stand alone or before a mode, -d is
// --debug and -s --state.
type spelling struct {
	long  map[string]bool // flags of all commands: whether a value follows
	short map[string]bool
}

func newSpelling(root *cobra.Command) spelling {
	// Two that cobra adds later.
	s := spelling{long: map[string]bool{"help": false, "version": false}, short: map[string]bool{}}
	note := func(f *pflag.Flag) {
		s.long[f.Name] = s.long[f.Name] || f.NoOptDefVal == ""
		if f.Shorthand != "" {
			s.short[f.Shorthand] = s.short[f.Shorthand] || f.NoOptDefVal == ""
		}
	}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		c.Flags().VisitAll(note)
		c.PersistentFlags().VisitAll(note)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	return s
}

// ofImg are flags of img by other names, but for commands that have their own of these
// letters.
var ofImg = map[string]struct {
	name string
	but  []string
}{"-d": {"debug", []string{"fmt", "publish", "recursive-build"}}, "-s": {"state", []string{"convert"}}, "--no-console": {"progress=plain", nil}}

// normal spells a command line as the parser of flags wants it. What chroot runs
// is not ours to spell.
func (s spelling) normal(args []string) []string {
	var out, words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if !strings.HasPrefix(a, "-") || a == "-" {
			words = append(words, a)
			out = append(out, a)
			if len(words) == 2 && (words[0] == "chroot" || words[0] == "exec") {
				return append(out, args[i+1:]...)
			}
			continue
		}
		if a == "--" {
			return append(out, args[i:]...)
		}
		if long := ofImg[a]; long.name != "" && !slices.ContainsFunc(long.but, func(c string) bool { return slices.Contains(args, c) }) {
			a = "--" + long.name
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		_, known := s.long[name]
		if known && len(name) > 1 && !strings.HasPrefix(a, "--") {
			a = "-" + a
		}
		if a == "--progress" && i+1 < len(args) && slices.Contains(progressModes, args[i+1]) {
			a += "=" + args[i+1]
			hasValue = true
			i++
		}
		out = append(out, a)
		takes := strings.HasPrefix(a, "--") && s.long[name] || len(a) == 2 && s.short[name]
		if takes && !hasValue && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}
