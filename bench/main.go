// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Command bench runs the workloads that stacker's speed is judged by, each beside the program that it is
// compared with, and prints a table.
//
// A claim is a ratio of two things measured in turns within one run, never a time alone: the machine that
// does both is the same, and so is its load. Everything happens on an ext4 of its own in a sparse file,
// which is removed at the end, also after Ctrl-C. Commands run in the top directory of that file system, so
// that the table shows exactly what ran.
//
// It drives the program from outside; only the compressors, which have no command, are called directly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// options are what the command line says.
type options struct {
	stacker string  // the program
	only    string  // one workload; "" is all
	runs    int     // pairs per workload
	scale   float64 // of the data; the goals are meant for 1
	out     string  // document whose table is rewritten; "" is standard output
	dir     string  // where the sparse file is made
	debian  string  // archive that workload apt installs into; "" makes it, from Debian's mirror
}

// workload measures one thing and adds rows to the report.
type workload struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

// workloads are the names of -only, in the order of the table.
func workloads() []workload {
	return []workload{
		{"steps", benchSteps},
		{"cached", benchCached},
		{"parallel", benchParallel},
		{"unpack", benchUnpack},
		{"commit", benchCommit},
		{"compress", benchCompress},
		{"apt", benchApt},
		{"filesystems", benchFilesystems},
		benchDockerfile("dockerfile-cold"),
		benchDockerfile("dockerfile-unchanged"),
		benchDockerfile("copy-30000"),
		benchDockerfile("context-50000"),
		benchDockerfile("steps-40"),
		benchDockerfile("stages-4"),
		{"pull-1g", withServer(benchPull)},
		{"push-1g", withServer(benchPush)},
		{"push-existing", withServer(benchPushExisting)},
		{"cache-missing", withServer(benchCacheMissing)},
	}
}

// bench is what every workload gets.
type bench struct {
	options
	area   *area
	report *report
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 4 && args[0] == "compress" {
		return compressFile(args[1], args[2], args[3])
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.stacker, "stacker", "./stacker", "program to measure")
	f.StringVar(&o.only, "only", "", "run only this workload: "+strings.Join(names(), ", "))
	f.IntVar(&o.runs, "runs", 5, "pairs of measurements per workload")
	f.Float64Var(&o.scale, "scale", 1, "size of the data: 1 is 700 MB in 25,000 files")
	f.StringVar(&o.out, "o", "", "document whose table is rewritten (default: print it)")
	f.StringVar(&o.dir, "dir", "/var/tmp", "directory for the sparse file that holds the file system")
	f.StringVar(&o.debian, "debian", "", "archive that workload apt installs into (default: make it with mmdebstrap, from the network)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.only != "" && !slices.Contains(names(), o.only) {
		return fmt.Errorf("no workload is called %q: there are %s", o.only, strings.Join(names(), ", "))
	}
	if o.runs < 1 || o.scale <= 0 || f.NArg() > 0 {
		return errors.New("want -runs of at least 1, a -scale above 0 and no other arguments")
	}
	return measure(ctx, o)
}

func names() []string {
	var out []string
	for _, w := range workloads() {
		out = append(out, w.name)
	}
	return out
}

func measure(ctx context.Context, o options) (err error) {
	a, err := newArea(ctx, o)
	defer func() { err = errors.Join(err, a.close()) }()
	if err != nil {
		return err
	}
	b := &bench{options: o, area: a, report: &report{options: o, load: loadAverage()}}
	for _, w := range workloads() {
		if o.only != "" && o.only != w.name {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench:", w.name)
		if err := w.run(ctx, b); err != nil {
			return fmt.Errorf("workload %s: %w", w.name, err)
		}
		// What one workload wrote is not the next one's burden.
		if err := a.empty(); err != nil {
			return err
		}
	}
	b.report.machine = machine(ctx, a)
	if o.out == "" {
		fmt.Print(b.report.markdown())
		return nil
	}
	return rewrite(o.out, b.report.markdown())
}
