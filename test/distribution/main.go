// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Command distribution is version 3 of the registry of the distribution project, for
// tests that need a real server: distribution serve CONFIG. It is a module of its
// own, so that nothing of it is in the program or in its list of dependencies.
package main

import (
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"os"

	"github.com/distribution/distribution/v3/registry"
)

func main() {
	if registry.RootCmd.Execute() != nil {
		os.Exit(1)
	}
}
