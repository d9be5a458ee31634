// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stacker

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxProgram is how many bytes the program may have: an image that holds it and
// nothing else is to stay below 25 MB.
const maxProgram = 25_000_000

// TestSize builds the program as the Makefile does.
func TestSize(t *testing.T) {
	if testing.Short() {
		t.Skip("links the program")
	}
	program := filepath.Join(t.TempDir(), "stacker")
	cmd := exec.Command("make", "--silent", "build", "PROGRAM="+program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxProgram {
		t.Errorf("the program has %d bytes, at most %d are wanted. A jump by 5 MB means that something calls text/template, html/template or "+
			"reflect.Value.MethodByName, for which the linker keeps every method: see package internal/template", info.Size(), maxProgram)
	}
}
