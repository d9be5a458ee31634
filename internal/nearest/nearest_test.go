// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package nearest

import "testing"

func TestWord(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"VERSIO", "VERSION"}, {"VERISON", "VERSION"}, {"BASE", "BAES"}, {"nothing", ""}, {"V", ""}, {"a", ""}, {"D", ""}, {"BB", "B"}, {"VERSION", ""}, {"", ""},
	} {
		if got := Word(tt.word, []string{"VERSION", "BAES", "B"}); got != tt.want {
			t.Errorf("Word(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}
