// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"build.stacker.dev/internal/registry/registrytest"
)

// slowClock makes every connection look slow: each look at it is a second later.
func slowClock() func() time.Time {
	var mu sync.Mutex
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
}

// testWide is small enough for a test to see all of it.
func testWide() wideLimits {
	return wideLimits{chunk: 64 << 10, least: 128 << 10, fast: 1 << 30, ahead: 3, memory: 4}
}

// numbered is data whose every part is different.
func numbered(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i>>16) ^ byte(i>>8)*7 ^ byte(i)*31
	}
	return data
}

// TestWide reads a blob in pieces, with what can happen to them.
func TestWide(t *testing.T) {
	data := numbered(1<<20 + 12345)
	isPiece := func(r *http.Request) bool {
		return strings.Contains(r.Header.Get("Range"), "-") && !strings.HasSuffix(r.Header.Get("Range"), "-")
	}
	tests := []struct {
		name  string
		fault *registrytest.Fault
		wide  bool
	}{
		{"pieces", nil, true},
		{"a piece is refused", &registrytest.Fault{Match: isPiece, Times: 1, Answer: status(500)}, true},
		{"all pieces are refused", &registrytest.Fault{Match: isPiece, Answer: status(403)}, true},
		{"a piece breaks off", &registrytest.Fault{Match: isPiece, Times: 1, Answer: reset}, true},
		{"a piece is another one", &registrytest.Fault{Match: isPiece, Times: 2, Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("Range", "bytes=0-65535")
			next.ServeHTTP(w, r)
		}}, true},
		{"a piece is the whole", &registrytest.Fault{Match: isPiece, Answer: replace(data, len(data))}, true},
		{"no ranges", &registrytest.Fault{Answer: replace(data, len(data))}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			d := s.PutBlob("a", data)
			if tt.fault != nil {
				s.Inject(*tt.fault)
			}
			c := newClient(t, Options{Now: slowClock()})
			c.setWide(testWide())
			got, err := readBlob(c, ref(t, s, "a"), d)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			pieces := 0
			for _, r := range s.Requests() {
				if isPiece(&http.Request{Header: r.Header}) {
					pieces++
				}
			}
			if (pieces > 0) != tt.wide {
				t.Errorf("%d pieces were asked for, want some: %v", pieces, tt.wide)
			}
			if len(c.spare) != testWide().memory {
				t.Errorf("%d pieces of memory came back, want %d", len(c.spare), testWide().memory)
			}
		})
	}
}

// TestWideIsForSlowOnes: one connection is enough where it is fast or the blob small.
func TestWideIsForSlowOnes(t *testing.T) {
	data := numbered(1 << 20)
	for name, change := range map[string]func(*wideLimits){
		"fast":  func(l *wideLimits) { l.fast = 1 },
		"small": func(l *wideLimits) { l.least = 2 << 20 },
	} {
		s := registrytest.New(t, registrytest.Options{})
		d := s.PutBlob("a", data)
		c := newClient(t, Options{Now: slowClock()})
		limits := testWide()
		change(&limits)
		c.setWide(limits)
		if _, err := readBlob(c, ref(t, s, "a"), d); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Requests()); n != 1 {
			t.Errorf("%s: %d requests, want 1", name, n)
		}
	}
}

// TestWideSharesMemory reads more blobs at once than there is memory for, resumes
// in the middle, and closes some early.
func TestWideSharesMemory(t *testing.T) {
	data := numbered(1 << 20)
	s := registrytest.New(t, registrytest.Options{})
	d := s.PutBlob("a", data)
	c := newClient(t, Options{Now: slowClock()})
	c.setWide(testWide())
	name := ref(t, s, "a")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			offset := int64(i) * 1000
			r, err := c.BlobFrom(context.Background(), name, d, offset)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = r.Close() }()
			if i%2 == 0 {
				_, _ = io.CopyN(io.Discard, r, 300<<10)
				return
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data[offset:]) {
				t.Errorf("from %d: got %d bytes, %v", offset, len(got), err)
			}
		})
	}
	wg.Wait()
	if len(c.spare) != testWide().memory {
		t.Errorf("%d pieces of memory came back, want %d", len(c.spare), testWide().memory)
	}
}
