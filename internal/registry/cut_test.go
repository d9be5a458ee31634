// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"build.stacker.dev/internal/registry/registrytest"
)

// randomCuts divides size bytes into n+1 parts, the first n of which end in a cut.
func randomCuts(size int64, n int) []int64 {
	r := rand.New(rand.NewPCG(1, 2))
	cuts := make([]int64, n)
	for i := range cuts {
		cuts[i] = size/int64(n+1)/2 + r.Int64N(size/int64(n+1)/2)
	}
	return cuts
}

// TestCutTransfers cuts a transfer ten times at random. It reaches its end, and at
// most a twentieth is sent twice. The registry of the distribution project forgets
// an upload whose connection broke in the middle of a request ("upload resumed at
// wrong offset"): there a push begins anew, and is cut once only.
func TestCutTransfers(t *testing.T) {
	const size = 48 << 20
	data := numbered(size)
	m := memory{}
	d := m.put("a/b", data)
	push := func(c *Client, host string) error {
		return c.PutBlob(t.Context(), parse(t, host+"/a:v1"), d, openFrom(m, d), BlobOptions{})
	}
	pull := func(c *Client, host string) error {
		got, err := readBlob(c, parse(t, host+"/a:v1"), d)
		if err == nil && !bytes.Equal(got, data) {
			t.Errorf("pull: got %d other bytes", len(got))
		}
		return err
	}
	for _, tt := range []struct {
		name     string
		start    func() string
		pushCuts int
		pushMost int64 // bytes sent
		pause    time.Duration
	}{
		{"memory", func() string { return registrytest.New(t, registrytest.Options{}).Host() }, 10, size * 105 / 100, 200 * time.Millisecond},
		{"distribution", func() string { return startRegistry(t, need(t, "docker-registry")[0]) }, 1, 2 * size, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := tt.start()
			for _, transfer := range []struct {
				name  string
				cuts  int
				most  int64
				pause time.Duration
				do    func(c *Client, host string) error
			}{{"push", tt.pushCuts, tt.pushMost, tt.pause, push}, {"pull", 10, size * 105 / 100, 50 * time.Millisecond, pull}} {
				cutter := registrytest.NewCutter(t, host, randomCuts(size, transfer.cuts)...)
				// It waits for real: the registry must see the cut before it is asked, on a busy machine too.
				c := newClient(t, Options{Wait: func(ctx context.Context, _ time.Duration) error { return wait(ctx, transfer.pause) }})
				if err := transfer.do(c, cutter.Host()); err != nil {
					t.Errorf("%s: %v", transfer.name, err)
				}
				sent, cuts := cutter.Sent()
				if cuts != transfer.cuts || sent > transfer.most {
					t.Errorf("%s: %d cuts, want %d; %d of %d bytes passed (%.1f %% twice)", transfer.name, cuts, transfer.cuts, sent, size, float64(sent-size)*100/size)
				}
				t.Logf("%s: %d cuts, %.2f %% sent twice", transfer.name, cuts, float64(sent-size)*100/size)
			}
		})
	}
}
