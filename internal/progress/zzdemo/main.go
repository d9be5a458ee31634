// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Command zzdemo is temporary.
package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
)

func main() {
	mode, _ := progress.ParseMode(os.Args[1])
	o := progress.ForTerminal(os.Stderr, os.Getenv)
	d := progress.New(mode, os.Stderr, o)
	if len(os.Args) > 2 && os.Args[2] == "sleep" {
		v := solve.Vertex{ID: "s", Stage: "app", Name: "run"}
		d.Handle(solve.Event{Kind: solve.Started, Vertex: v})
		time.Sleep(4 * time.Second)
		d.Handle(solve.Event{Kind: solve.Done, Vertex: v})
		d.Close(nil)
		return
	}
	if len(os.Args) > 2 && os.Args[2] == "flood" {
		v := solve.Vertex{ID: "s", Stage: "app", Name: "run"}
		d.Handle(solve.Event{Kind: solve.Started, Vertex: v})
		data := make([]byte, 32<<10)
		for i := range data {
			data[i] = "y\n"[i%2]
			if len(os.Args) > 3 {
				data[i] = 'y'
			}
		}
		for range 2 << 30 / len(data) {
			d.Handle(solve.Event{Kind: solve.Log, Vertex: v, Data: data, Stream: 1})
		}
		d.Handle(solve.Event{Kind: solve.Done, Vertex: v})
		d.Close(nil)
		b, _ := os.ReadFile("/proc/self/status")
		fmt.Println(string(b)[200:900])
		return
	}
	var wg sync.WaitGroup
	base := solve.Vertex{ID: "base", Stage: "base", Name: "base docker://docker.io/library/ubuntu:24.04"}
	app := solve.Vertex{ID: "app", Stage: "app", Name: "run apt-get update && \\\n  apt-get install -y gcc"}
	mk := solve.Vertex{ID: "mk", Stage: "tools", Name: "run make -j4 all install DESTDIR=/out PREFIX=/usr VERBOSE=1 with a very long command line that will not fit"}
	d.Handle(solve.Event{Kind: solve.Note, Text: "preparing image app..."})
	for i := range 5 {
		v := solve.Vertex{ID: fmt.Sprint("c", i), Stage: "tools", Name: fmt.Sprintf("import file%d.txt", i)}
		d.Handle(solve.Event{Kind: solve.Cached, Vertex: v})
	}
	for i := range 3 {
		d.Handle(solve.Event{Kind: solve.Queued, Vertex: solve.Vertex{ID: fmt.Sprint("q", i), Stage: "later", Name: "run"}})
	}
	wg.Go(func() {
		d.Handle(solve.Event{Kind: solve.Started, Vertex: base})
		for i := range 120 {
			for l := range 5 {
				total := int64(4_000_000 * (l*l + 1))
				cur := min(total, int64(i)*total/int64(30+20*l))
				d.Handle(solve.Event{Kind: solve.Progress, Vertex: base, Item: fmt.Sprintf("pull 3f2a9c0%d", l), Current: cur, Total: total})
			}
			d.Handle(solve.Event{Kind: solve.Progress, Vertex: base, Item: "hash", Current: int64(i) * 100, Unit: "files"})
			time.Sleep(50 * time.Millisecond)
		}
		d.Handle(solve.Event{Kind: solve.Done, Vertex: base})
		d.Handle(solve.Event{Kind: solve.Started, Vertex: app, Cause: "import content changed: src/main.c"})
		for i := range 60 {
			d.Handle(solve.Event{Kind: solve.Log, Vertex: app, Stream: 1, Data: fmt.Appendf(nil, "Get:%d http://archive.ubuntu.com/ubuntu noble/main amd64 \x1b[32mgcc\x1b[0m \x1b]52;c;AAAA\a [%d kB]\n", i, i*37)})
			time.Sleep(60 * time.Millisecond)
		}
		d.Handle(solve.Event{Kind: solve.Log, Vertex: app, Stream: 2, Data: []byte("E: Unable to locate package \x1b[31mgccc\n")})
		if len(os.Args) > 2 && os.Args[2] == "fail" {
			d.Handle(solve.Event{Kind: solve.Failed, Vertex: app, Err: errors.New("exit status 100")})
		} else {
			d.Handle(solve.Event{Kind: solve.Done, Vertex: app})
		}
	})
	wg.Go(func() {
		d.Handle(solve.Event{Kind: solve.Waiting, Vertex: mk, Cause: "another build does the same step"})
		time.Sleep(1500 * time.Millisecond)
		d.Handle(solve.Event{Kind: solve.Started, Vertex: mk, Cause: "this step was not built before"})
		for i := range 100 {
			d.Handle(solve.Event{Kind: solve.Log, Vertex: mk, Stream: 1, Data: fmt.Appendf(nil, "  CC\tfile%d.o\n", i)})
			time.Sleep(30 * time.Millisecond)
		}
		for i := range 30 {
			d.Handle(solve.Event{Kind: solve.Log, Vertex: mk, Stream: 1, Data: fmt.Appendf(nil, "\rlinking %d%% 日本語", i*3)})
			time.Sleep(30 * time.Millisecond)
		}
		d.Handle(solve.Event{Kind: solve.Done, Vertex: mk})
		d.Handle(solve.Event{Kind: solve.Note, Level: solve.Warning, Text: "stacker.yaml:3: the key x is deprecated"})
	})
	wg.Wait()
	d.Handle(solve.Event{Kind: solve.Note, Text: "filesystem app built successfully"})
	var err error
	if len(os.Args) > 2 && os.Args[2] == "fail" {
		err = errors.New("x")
	}
	d.Close(err)
}
