// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"path/filepath"
	"testing"
)

func TestBeside(t *testing.T) {
	path := Beside("dir/image.tar")
	if dir := filepath.Dir(path); dir != "dir" {
		t.Errorf("Beside: got a file in %s, want one in dir", dir)
	}
	for name, want := range map[string]bool{
		filepath.Base(path):                         true,
		".stacker-ABCDEFGHIJKLMNOPQRSTUV2345":       true,
		".stacker-ABCDEFGHIJKLMNOPQRSTUV234":        false,
		".stacker-ABCDEFGHIJKLMNOPQRSTUV23456":      false,
		".stacker-abcdefghijklmnopqrstuv2345":       false,
		"x.stacker-ABCDEFGHIJKLMNOPQRSTUV2345":      false,
		".stacker":                                  false,
		"ABCDEFGHIJKLMNOPQRSTUV2345":                false,
		".stacker-unpack-ABCDEFGHIJKLMNOPQRSTUV234": false,
	} {
		if got := IsBeside(name); got != want {
			t.Errorf("IsBeside(%q): got %v, want %v", name, got, want)
		}
	}
}
