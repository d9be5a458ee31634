// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// tarLike returns n bytes that compress about as well as the files of a base image: text with
// repeated words, machine-code-like bytes of uneven frequency, runs of zeros, random bytes.
func tarLike(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("%x", r.Uint64()>>(r.IntN(8)*8))
	}
	out := make([]byte, 0, n+4096)
	for len(out) < n {
		switch r.IntN(8) {
		case 0:
			out = append(out, make([]byte, r.IntN(1024))...)
		case 1:
			for range r.IntN(512) {
				out = append(out, byte(r.Uint32()))
			}
		case 2, 3, 4:
			for range r.IntN(200) {
				out = append(out, words[min(r.IntN(500), r.IntN(500))]...)
				out = append(out, ' ')
			}
		default:
			for range r.IntN(1024) {
				out = append(out, byte(r.ExpFloat64()*20))
			}
			if len(out) > 4096 {
				from := r.IntN(len(out) - 2048)
				out = append(out, out[from:from+r.IntN(1024)]...)
			}
		}
	}
	return out[:n]
}

// run pipes in through a program. A missing program fails the test where CI is set.
func run(t testing.TB, in []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.Bytes())
	}
	return out
}

// pack compresses data with the package's writer.
func pack(t testing.TB, data []byte, a Algorithm, o WriterOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, a, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// checkGoroutines fails if there are more goroutines than before. One that was waited for may
// still be about to leave.
func checkGoroutines(t *testing.T, before int) {
	t.Helper()
	after := 0
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		if after = runtime.NumGoroutine(); after <= before {
			return
		}
	}
	t.Errorf("%d goroutines, %d before", after, before)
}
