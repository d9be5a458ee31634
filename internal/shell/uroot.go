// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/tar"
)

// fromUroot runs a utility of the u-root project.
func fromUroot(ctx context.Context, p *proc, args []string) int {
	cmd := urootCommand(p.name)
	cmd.SetIO(p.in, p.out, p.err)
	cmd.SetWorkingDir(p.workDir())
	cmd.SetLookupEnv(p.getenv)
	if err := cmd.RunContext(ctx, args...); err != nil {
		return p.fail(1, "%v", err)
	}
	return 0
}

func urootCommand(name string) core.Command {
	switch name {
	case "base64":
		return base64.New()
	case "cat":
		return cat.New()
	case "mktemp":
		return mktemp.New()
	default:
		return tar.New()
	}
}
