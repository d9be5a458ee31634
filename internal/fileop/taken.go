// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"strconv"

	"build.stacker.dev/internal/fileop/action"
)

// Taken gives actions for an empty root file system that take from some inputs just
// what actions take. The digest of the layer that they make is that of what is taken: of names,
// types, modes, owners, attributes, bytes, and which names are of one file; but not of times. So
// that two builds of a stage which differ in nothing else are equal to who copies from it.
//
// Where equal actions on an equal root take what has the same digest, they make the same
// files there, but for times.
func Taken(actions []action.Action, inputs map[int]bool) []action.Action {
	var out []action.Action
	var never int64
	for i, a := range actions {
		c := a.Copy
		if c == nil || !inputs[c.Input] {
			continue
		}
		dir := "/" + strconv.Itoa(i)
		out = append(out, action.Action{Dir: &action.Dir{Path: dir, Mode: 0o755, Time: &never}}, action.Action{Copy: &action.Copy{
			// Not the contents only: "COPY /a /new" makes a file of a file, and a directory of a
			// directory, which may hold nothing but a file a.
			Input: c.Input, Src: c.Src, Dest: dir + "/", FollowLinks: c.FollowLinks,
			Wildcard: c.Wildcard, AllowNone: c.AllowNone, Include: c.Include, Exclude: c.Exclude, Required: c.Required, Time: &never,
		}})
	}
	return out
}
