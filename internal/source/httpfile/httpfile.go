// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package httpfile downloads a file that a build file names by an http or https
// URL, and keeps it so that an unchanged file is not downloaded again.
//
// A kept file is never taken on trust: its bytes are compared with the digest
// that was recorded when it was downloaded, and the server is asked whether it
// has changed, unless the build file pins the content by a hash. Credentials go to
// the host that the build file names and to no other, and appear in no error.
//
// It is no registry client, and it does not unpack anything.
package httpfile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"build.stacker.dev/internal/lockfile"
	"build.stacker.dev/internal/source/localtree"
	"github.com/opencontainers/go-digest"
)

// How says where the bytes came from.
type How int

const (
	// Downloaded: from the server, now.
	Downloaded How = iota
	// Reused: kept from before, and the server or the wanted hash says that it
	// is the right content.
	Reused
	// ReusedOffline: kept from before; nobody could be asked whether it changed.
	ReusedOffline
)

// Result is a file on this machine.
type Result struct {
	Path   string // of the bytes; later calls for the same URL may replace it
	Name   string // what the URL calls it, see Name
	Digest digest.Digest
	Size   int64
	// Modified is the content's time as the server tells it; zero: it does not.
	Modified time.Time
	How      How
	Why      error // of ReusedOffline: what went wrong; nil if Options.Offline
}

// Options of Fetch. Only Dir is needed.
type Options struct {
	// Dir keeps the files; see format.go. It is made when it is missing.
	Dir string
	// Index saves reading a kept file to verify it; may be nil.
	Index *localtree.Index
	// Hash is the sha256 in hex that the content must have, in any letter case,
	// with or without "sha256:"; empty: any content.
	Hash string
	// Credentials is asked for a user and password by host[:port] and path.
	Credentials func(host, path string) (user, password string, ok bool)
	// Offline: ask no server.
	Offline bool
	// Client sends the requests; nil: one that uses proxies as the environment
	// says. Its redirect policy and its cookies are not used.
	Client *http.Client
	// Progress is told how much arrived, and the whole size or -1. A download
	// that starts again tells smaller numbers again.
	Progress func(done, total int64)
	// Pause before the second attempt; it doubles for the next ones. 0: 500 ms.
	Pause time.Duration
	// Stall is how long a server may send nothing. 0: one minute.
	Stall time.Duration
}

// Fetch returns the file behind rawURL. Calls for one URL wait for each other,
// also in other processes.
func Fetch(ctx context.Context, rawURL string, o Options) (*Result, error) {
	f, err := newFetch(rawURL, o)
	if err != nil {
		return nil, err
	}
	unlock, err := f.store.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := f.store.load(ctx)
	if err != nil {
		return nil, err
	}
	return f.run(ctx, have)
}

// fetch is one call of Fetch.
type fetch struct {
	o      Options
	url    *url.URL // without user, password and fragment
	user   *url.Userinfo
	shown  string // the URL for messages
	name   string
	want   digest.Digest // empty: any
	store  *store
	client *http.Client
}

func newFetch(rawURL string, o Options) (*fetch, error) {
	u, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	f := &fetch{o: o, user: u.User, client: client(o)}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	f.url, f.shown = u, show(u)
	if f.name, err = Name(rawURL); err != nil {
		return nil, err
	}
	if f.want, err = wanted(o.Hash); err != nil {
		return nil, fmt.Errorf("download %s: %w", f.shown, err)
	}
	f.store = newStore(o, u.String())
	return f, nil
}

// run decides between what is kept (nil: nothing) and the server.
func (f *fetch) run(ctx context.Context, have *record) (*Result, error) {
	if have != nil && f.want != "" {
		if have.Digest == f.want {
			return f.result(have, Reused, nil), nil
		}
		have = nil // no answer of the server makes it the wanted content
	}
	if f.o.Offline {
		if have == nil {
			return nil, fmt.Errorf("download %s: no copy with the right content is kept, and the network is not to be used", f.shown)
		}
		return f.result(have, ReusedOffline, nil), nil
	}
	if have == nil {
		return f.download(ctx, nil)
	}
	same, err := f.unchanged(ctx, have)
	if same {
		return f.result(have, Reused, nil), nil
	}
	if isUnreachable(err) {
		return f.result(have, ReusedOffline, err), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	got, err := f.download(ctx, have)
	if err != nil && ctx.Err() == nil && isTemporary(err) {
		return f.result(have, ReusedOffline, err), nil
	}
	return got, err
}

// unchanged asks the server by HEAD. An error says only that it did not answer:
// many a server knows no HEAD.
func (f *fetch) unchanged(ctx context.Context, have *record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.stall())
	defer cancel()
	resp, err := f.send(ctx, http.MethodHead, have.conditions())
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	if sum := checksum(resp); sum != "" && sum != have.Digest {
		// What the server says of time and tag is contradicted by itself.
		have.ETag, have.LastModified = "", ""
	}
	return have.isIn(resp), nil
}

func (f *fetch) result(r *record, how How, why error) *Result {
	return &Result{Path: f.store.dataPath(), Name: f.name, Digest: r.Digest, Size: r.Size, Modified: r.modified(), How: how, Why: why}
}

// isUnreachable tells that there was no connection at all, so that trying again at
// once is of no use.
func isUnreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// lock keeps other calls for the same URL away.
func (s *store) lock(ctx context.Context) (func(), error) {
	if err := s.make(); err != nil {
		return nil, err
	}
	return lockfile.Lock(ctx, s.path("lock"), nil)
}
