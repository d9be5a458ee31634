// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package shell is what a RUN command gets in an image that has no shell: a POSIX shell and
// the common core utilities, inside the stacker binary. The caller puts links named after
// Names into a directory of the build environment, last on PATH, so that programs of the image
// go first and nothing of this enters the image.
//
// The shell runs a utility in its own process when PATH leads to none, or only to that
// directory. It is no place for whole re-implementations: utilities understand the options
// that build files use, and say so where they meet another one.
//
// Utilities never change the state of the process (the working directory above all), because
// several of them run in one shell at the same time in a pipeline. The one exception is umask.
package shell

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// LinkDir is where the build environment has the links to the utilities.
const LinkDir = "/stacker/bin"

// Names returns the names of the applets, sh first, then sorted.
func Names() []string {
	var names []string
	for name := range applets() {
		names = append(names, name)
	}
	slices.Sort(names)
	return append([]string{"sh"}, names...)
}

// Main runs the applet args[0], by its base name, with the arguments args[1:], and returns the
// exit status: 127 when there is no such applet. It uses the environment and the working
// directory of the process. A done ctx ends it early.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "sh: no command given")
		return 127
	}
	p := &proc{name: path.Base(args[0]), in: stdin, out: stdout, err: stderr, environ: os.Environ()}
	if p.name == "sh" {
		return p.sh(ctx, args[1:])
	}
	run, ok := applets()[p.name]
	if !ok {
		return p.fail(127, "not found")
	}
	return run(ctx, p, args[1:])
}

// applet is one utility. args are the arguments without the name; the result is the exit status.
type applet func(ctx context.Context, p *proc, args []string) int

// applets returns the utilities except sh.
func applets() map[string]applet {
	return map[string]applet{
		"[": builtin, "echo": builtin, "printf": builtin, "pwd": builtin, "test": builtin,
		"true": builtin, "false": builtin,

		"base64": encode, "cat": cat, "mktemp": mktemp, "tar": tarArchive,

		"chgrp": chown, "chmod": chmod, "chown": chown, "cp": cp, "find": find,
		"install": install, "ln": ln, "ls": ls, "mkdir": mkdir, "mv": mv, "readlink": readlink,
		"realpath": readlink, "rm": rm, "rmdir": rmdir, "touch": touch,

		"gunzip": gzipFiles, "gzip": gzipFiles, "zcat": gzipFiles,

		"cut": cut, "grep": grep, "head": head, "sha256sum": sha256sum, "sort": sortLines,
		"tail": tail, "tee": tee, "tr": tr, "uniq": uniq, "wc": wc,

		"basename": basename, "date": date, "dirname": dirname, "env": env, "hostname": hostname,
		"id": id, "kill": kill, "sleep": sleep, "su-exec": suExec, "uname": uname, "xargs": xargs,
	}
}
