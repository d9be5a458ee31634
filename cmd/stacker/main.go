// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Command stacker builds OCI images as an ordinary user.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"build.stacker.dev/internal/boot"
	"build.stacker.dev/internal/cli"
	"build.stacker.dev/internal/worker"
)

func main() {
	collectLate()
	if role := boot.Role(); role.Kind == boot.Worker {
		if err := worker.Main(context.Background(), os.NewFile(uintptr(role.Control), "control"), worker.MainOptions{SingleID: role.SingleID, Bare: role.Bare, Driver: role.Driver}); err != nil {
			fmt.Fprintln(os.Stderr, "stacker: worker process:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := cli.Main(ctx, os.Args, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// collectLate lets the heap grow to 32 MB before garbage is collected for the first
// time: most builds have ended by then. After that it is collected as usual.
func collectLate() {
	if os.Getenv("GOGC") != "" {
		return
	}
	const usual, first = 100, 800 // percent; the first collection is at that much of 4 MB
	debug.SetGCPercent(first)
	runtime.AddCleanup(new([64]byte), func(percent int) { debug.SetGCPercent(percent) }, usual)
}
