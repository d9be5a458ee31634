// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package httpfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	attempts     = 5
	attemptsHave = 2 // where a kept file can be used instead
	attemptsDial = 3 // where there is no connection at all
	firstPause   = 500 * time.Millisecond
)

var errStalled = errors.New("the server sends nothing any more")

// download gets the file and keeps it. have (nil: nothing) may turn out to be it.
func (f *fetch) download(ctx context.Context, have *record) (*Result, error) {
	file, err := f.store.create()
	if err != nil {
		return nil, err
	}
	defer f.store.discard()
	defer file.Close()
	d := &download{fetch: f, file: file, sum: sha256.New(), have: have}
	if err := d.run(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("couldn't download %s: %w", f.shown, err)
	}
	if d.same {
		return f.result(have, Reused, nil), nil
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("write download: %w", err)
	}
	got := &record{Digest: digest.NewDigest(digest.SHA256, d.sum), Size: d.done, ETag: d.etag, LastModified: d.modified, Modified: d.at}
	if err := f.check(got.Digest, d.told); err != nil {
		return nil, err
	}
	if err := f.store.commit(got); err != nil {
		return nil, err
	}
	return f.result(got, Downloaded, nil), nil
}

// check compares the content with what the build file and the server say.
func (f *fetch) check(got, told digest.Digest) error {
	if f.want != "" && got != f.want {
		return fmt.Errorf("downloaded file hash does not match: %s: want %s, got %s: correct the hash if the file was meant to change",
			f.shown, f.want.Encoded(), got.Encoded())
	}
	if told != "" && got != told {
		return fmt.Errorf("downloaded file is damaged: %s: the server says that its sha256 is %s, got %s",
			f.shown, told.Encoded(), got.Encoded())
	}
	return nil
}

// download is one file on its way, over one or more requests.
type download struct {
	*fetch
	file *os.File
	sum  hash.Hash
	have *record
	same bool // the server says that have is it

	done           int64         // bytes that are in file and sum
	etag, modified string        // of the content that is in file; see lastModified
	at             string        // when that was made, as the server says
	told           digest.Digest // what the server says it is; may be empty
}

// run tries until the file is whole.
func (d *download) run(ctx context.Context) error {
	tries, pause := attempts, d.o.Pause
	if d.have != nil {
		tries = attemptsHave
	}
	if pause == 0 {
		pause = firstPause
	}
	for try := 1; ; try++ {
		err := d.once(ctx)
		if err == nil || ctx.Err() != nil || !isTemporary(err) {
			return err
		}
		if isUnreachable(err) {
			tries = min(tries, attemptsDial)
		}
		if try >= tries {
			return fmt.Errorf("%w (%d attempts)", err, try)
		}
		wait := pause
		var status *statusError
		if errors.As(err, &status) && status.after > 0 {
			wait = status.after
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		pause *= 2
	}
}

// once asks for what is missing.
func (d *download) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := d.o.stall()
	watch := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watch.Stop()

	resp, err := d.send(ctx, http.MethodGet, d.header())
	if err != nil {
		return stalled(ctx, err)
	}
	defer resp.Body.Close()
	if err := d.begin(resp); err != nil || d.same {
		return err
	}
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = d.done + resp.ContentLength
	}
	return stalled(ctx, d.receive(resp.Body, total, func() { watch.Reset(stall) }))
}

// stalled tells a request that was given up from one that failed.
func stalled(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return &brokenError{errStalled}
	}
	return err
}

// header asks for the rest of what was begun, or for all of it.
func (d *download) header() http.Header {
	h := http.Header{}
	if d.have != nil {
		h = d.have.conditions()
	}
	if d.done > 0 {
		h = http.Header{}
		h.Set("Range", "bytes="+strconv.FormatInt(d.done, 10)+"-")
		h.Set("If-Range", d.validator())
	}
	return h
}

// validator proves that a rest belongs to the same content; empty: nothing can. Weak
// entity tags do not stand for bytes (RFC 9110, section 13.1.5).
func (d *download) validator() string {
	if d.etag != "" {
		if strings.HasPrefix(d.etag, "W/") {
			return ""
		}
		return d.etag
	}
	return d.modified
}

// begin prepares for the body of a response.
func (d *download) begin(resp *http.Response) error {
	if d.have != nil && d.done == 0 && d.have.isIn(resp) {
		d.same = true
		return nil
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if d.done > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(d.done, 10)+"-") {
			return nil
		}
		fallthrough
	case http.StatusRequestedRangeNotSatisfiable, http.StatusNotModified:
		// Nobody asked for this. The next attempt asks for all of it.
		if err := d.reset(); err != nil {
			return err
		}
		d.have = nil
		return &brokenError{fmt.Errorf("unexpected answer %d", resp.StatusCode)}
	}
	d.etag, d.modified = resp.Header.Get("ETag"), lastModified(resp)
	d.at, d.told = resp.Header.Get("Last-Modified"), checksum(resp)
	return d.reset()
}

// reset forgets what was received.
func (d *download) reset() error {
	d.done = 0
	d.sum.Reset()
	if err := d.file.Truncate(0); err != nil {
		return fmt.Errorf("write download: %w", err)
	}
	return nil
}

// receive appends a body to the file. Bytes that cannot be continued later are
// forgotten at an error.
func (d *download) receive(body io.Reader, total int64, alive func()) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		alive()
		if n > 0 {
			if _, err := d.file.WriteAt(buf[:n], d.done); err != nil {
				return fmt.Errorf("write download: %w", err)
			}
			d.sum.Write(buf[:n])
			d.done += int64(n)
			if d.o.Progress != nil {
				d.o.Progress(d.done, total)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			if d.validator() == "" {
				if err := d.reset(); err != nil {
					return err
				}
			}
			return &brokenError{err}
		}
	}
}
