// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot_test

import (
	"testing"
)

func probe([]string) {}

func TestTrue(t *testing.T) {
	root := newRoot(t)
	if out := runOK(t, step(root, "/bin/true")); out != "" {
		t.Errorf("output %q", out)
	}
	if out := runOK(t, step(root, "/bin/sh", "-c", "echo hello; id -u; pwd; cd /etc; pwd; ls; cat passwd; ls -la /; ls /proc/self/fd; readlink /proc/self/exe; echo $$ >/dev/null; ls -l /dev; for i in 1 2 3; do true; done; (sleep 0.1; echo b) | cat")); out != "" {
		t.Errorf("output %s", out)
	}
}
