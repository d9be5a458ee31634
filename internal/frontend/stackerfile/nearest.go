// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import "build.stacker.dev/internal/nearest"

// didYouMean is the hint that names the nearest candidate, or else what there is.
func didYouMean(word string, candidates []string, otherwise string) string {
	if near := nearest.Word(word, candidates); near != "" {
		return "did you mean " + short(near) + "?"
	}
	return otherwise
}
