// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"build.stacker.dev/internal/boot/role"
)

// The tests are in a package of their own: what they import must not count as
// imported by boot.

// Packages of this module that boot may import, directly or not. Before one is
// added: it must import nothing that takes time to initialise.
var allowed = []string{
	"build.stacker.dev/internal/boot",
	"build.stacker.dev/internal/boot/role",
	"build.stacker.dev/internal/container/initproc",
	"build.stacker.dev/internal/container/supervisor",
	"build.stacker.dev/internal/container/vroot",
	"build.stacker.dev/internal/layer/record",
	"build.stacker.dev/internal/mount",
	"build.stacker.dev/internal/seccomp/install",
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs the go command: ", err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !slices.Contains(allowed, p) {
			t.Errorf("boot imports %s, so that it is not early any more", p)
		}
	}
}

// Kept in the program, so that there is something that boot can be earlier than.
var (
	_ = http.DefaultClient
	_ = json.Marshal
)

// TestEarly looks which packages are initialised before boot takes over.
func TestEarly(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{role.WaitName} // ends at once: it finds no socket
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("got %v, want exit status 1; output:\n%s", err, out)
	}
	// What imports less than package os does comes first in any case.
	late := []string{"crypto/x509", "encoding/json", "flag", "net", "net/http", "path/filepath", "regexp", "testing"}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "init" {
			continue
		}
		if slices.Contains(late, f[1]) {
			t.Errorf("package %s is initialised before boot: %s", f[1], line)
		}
	}
}
