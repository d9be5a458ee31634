// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/registry/registrytest"
)

// mangle serves the true answer with another body. Its length is announced as it
// would be without that, or not at all.
func mangle(change func([]byte) []byte, announce bool) answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		if r.Method == http.MethodHead || rec.Code >= http.StatusBadRequest {
			w.WriteHeader(rec.Code)
			return
		}
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		if announce {
			w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
		}
		w.WriteHeader(rec.Code)
		body := change(bytes.Clone(rec.Body.Bytes()))
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush()
		if announce && len(body) != rec.Body.Len() {
			panic(http.ErrAbortHandler)
		}
	}
}

// TestDamageMatrix puts what is wrong with a body at the manifest, the config and the
// layer of a pull: once it is made good, for ever it is an error, and never taken.
func TestDamageMatrix(t *testing.T) {
	m := memory{}
	desc := m.putImage(t, layerData(1<<16))
	doc, err := image.ParseManifest(m[desc.Digest], desc.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	longer := func(b []byte) []byte { return append(b, ' ') }
	silent := func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }
	tests := []struct {
		name   string
		answer answer
		once   bool // it is made good if it happens once
		ever   bool // and even if it happens for ever
	}{
		{"R11 reset in the body", mangle(half, true), true, false},
		{"R14 short body", mangle(half, false), true, false},
		{"R15 long body", mangle(longer, false), false, false},
		{"R16 other bytes", mangle(flip, true), false, false},
		{"R17 no length", mangle(func(b []byte) []byte { return b }, false), true, true},
		{"R18 silence", silent, true, false},
		{"R19 silence after the headers", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Content-Length", "10")
			_ = http.NewResponseController(w).Flush()
			silent(w, r, next)
		}, true, false},
	}
	for place, match := range faultPlaces(doc.Config.Digest, doc.Layers[0].Digest) {
		for _, tt := range tests {
			for _, times := range []int{1, 0} {
				t.Run(fmt.Sprintf("%s %s, times %d", place, tt.name, times), func(t *testing.T) {
					t.Parallel()
					s := registrytest.New(t, registrytest.Options{})
					for d, data := range m {
						if d != desc.Digest {
							s.PutBlob("a", data)
						}
					}
					s.PutManifest("a", "v1", desc.MediaType, m[desc.Digest])
					s.Inject(registrytest.Fault{Match: match, Times: times, Answer: tt.answer})
					stall := patient
					if times == 0 && !tt.ever {
						stall = impatient
					}
					err := pullOf(t, s, m, "a:v1@"+string(desc.Digest), stall)
					if times == 0 && (err == nil) != tt.ever || times == 1 && tt.once && err != nil {
						t.Errorf("got %v", err)
					}
					if n := len(s.Requests()); n > 4*maxAttempts {
						t.Errorf("%d requests", n)
					}
					s.ClearFaults()
					if err := pullOf(t, s, m, "a:v1@"+string(desc.Digest), patient); err != nil {
						t.Errorf("again: %v", err)
					}
				})
			}
		}
	}
}

// How long a client of a test waits for a server that says nothing. On a busy machine one
// that is impatient may give up too early: it is for what must fail, and only for that.
const (
	impatient = 60 * time.Millisecond
	patient   = time.Second
)

// pullOf pulls an image and compares what comes.
func pullOf(t *testing.T, s *registrytest.Server, m memory, name string, stall time.Duration) error {
	t.Helper()
	c := newClient(t, Options{StallTimeout: stall})
	got, data, err := c.Resolve(t.Context(), ref(t, s, name))
	if err != nil {
		return err
	}
	if !bytes.Equal(data, m[got.Digest]) {
		t.Errorf("manifest %s came wrong, without an error", got.Digest)
	}
	doc, err := image.ParseManifest(data, got.MediaType)
	if err != nil {
		return err
	}
	for _, d := range append(doc.Layers, doc.Config) {
		data, err := readBlob(c, ref(t, s, name), d)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, m[d.Digest]) {
			t.Errorf("blob %s came wrong, without an error", d.Digest)
		}
	}
	return nil
}

// TestTokenEndsInPull is R24: a token that ends before any of the requests of a pull,
// or in the middle of a layer, is replaced once, and the layer goes on where it was.
func TestTokenEndsInPull(t *testing.T) {
	layer := layerData(1 << 18)
	m := memory{}
	desc := m.putImage(t, layer)
	doc, err := image.ParseManifest(m[desc.Digest], desc.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	places := faultPlaces(doc.Config.Digest, doc.Layers[0].Digest)
	places["middle of the layer"] = places["layer"]
	for place, match := range places {
		t.Run(place, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword})
			for d, data := range m {
				if d != desc.Digest {
					s.PutBlob("a", data)
				}
			}
			s.PutManifest("a", "v1", desc.MediaType, m[desc.Digest])
			c := newClient(t, Options{Credentials: credentials})
			if _, err := c.Head(t.Context(), ref(t, s, "a:v1")); err != nil { // the first token
				t.Fatal(err)
			}
			s.Inject(registrytest.Fault{Times: 1, Match: match,
				Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					s.RevokeTokens()
					if place == "middle of the layer" {
						replace(layer[:len(layer)/2], len(layer))(w, r, next)
					}
					next.ServeHTTP(w, r) // with a token that is worth nothing any more
				}})
			_, data, err := pull(c, ref(t, s, "a:v1"))
			if err != nil || !bytes.Equal(data, layer) {
				t.Fatalf("got %d bytes, %v", len(data), err)
			}
			if _, err := readBlob(c, ref(t, s, "a:v1"), doc.Config); err != nil {
				t.Error(err)
			}
			tokens, ranges := 0, 0
			for _, r := range s.Requests() {
				if r.Path == "/token" {
					tokens++
				}
				if r.Header.Get("Range") == fmt.Sprintf("bytes=%d-", len(layer)/2) && r.Status == http.StatusPartialContent {
					ranges++
				}
			}
			if tokens > 2 || place == "middle of the layer" && ranges != 1 {
				t.Errorf("%d tokens, %d times on from the middle", tokens, ranges)
			}
		})
	}
}

// TestPushStalls is R18 and R19 for uploads: a server that says nothing.
func TestPushStalls(t *testing.T) {
	m := memory{}
	desc := m.putImage(t, layerData(1<<16))
	silent := func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body) // before that the server does not see that the client is gone
		<-r.Context().Done()
	}
	for name, match := range map[string]func(*http.Request) bool{
		"POST": func(r *http.Request) bool { return r.Method == http.MethodPost },
		"PUT of a blob": func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/")
		},
		"PUT of the manifest": func(r *http.Request) bool { return r.Method == http.MethodPut && isManifest(r) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, times := range []int{1, 0} {
				s := registrytest.New(t, registrytest.Options{})
				s.Inject(registrytest.Fault{Match: match, Times: times, Answer: silent})
				stall := impatient
				if times == 1 {
					stall = patient / 3 // who sends waits for longer
				}
				err := newClient(t, Options{StallTimeout: stall}).Push(t.Context(), ref(t, s, "a:v1"), desc, m, PushOptions{})
				if times == 1 && err != nil || times == 0 && !errors.Is(err, errStalled) {
					t.Errorf("times %d: got %v", times, err)
				}
				if times == 0 && len(s.Tags("a")) > 0 {
					t.Error("a push that failed has set the tag")
				}
				s.ClearFaults()
				if err := newClient(t, Options{}).Push(t.Context(), ref(t, s, "a:v1"), desc, m, PushOptions{}); err != nil {
					t.Errorf("times %d, again: %v", times, err)
				}
			}
		})
	}
}
