// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package httpfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/source/localtree"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The directory of the downloads has one directory per URL, named by the sha256 of
// the URL (without user, password and fragment) in hex:
//
//	data         the bytes. No name comes from the URL or from the server
//	record.json  what is known of them: see record
//	partial      a download that goes on, or that was broken off: worthless
//	lock         empty; flock'ed by the process that works here
//
// The bytes are renamed into place first, the record after them. A record that
// does not match the bytes, or cannot be read, makes both count as absent.
const recordVersion = 1

// record describes data.
type record struct {
	Version      int           `json:"version"`
	URL          string        `json:"url"`
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
	ETag         string        `json:"etag,omitempty"`
	LastModified string        `json:"lastModified,omitempty"`
	Modified     string        `json:"modified,omitempty"` // as the server said it; LastModified only where it proves something
}

// modified is the time of the content as the server told it, if it did.
func (r *record) modified() (t time.Time) {
	for _, text := range []string{r.Modified, r.LastModified} { // records had the second alone
		if t, err := http.ParseTime(text); err == nil {
			return t
		}
	}
	return t
}

// maxRecord bounds the size of a record: headers of a server are in it.
const maxRecord = 1 << 20

// store is the directory of one URL.
type store struct {
	dir   string
	url   string
	index *localtree.Index
}

func newStore(o Options, url string) *store {
	sum := sha256.Sum256([]byte(url))
	s := &store{dir: filepath.Join(o.Dir, hex.EncodeToString(sum[:])), url: url, index: o.Index}
	if s.index == nil {
		s.index = localtree.OpenIndex("")
	}
	return s
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }
func (s *store) dataPath() string        { return s.path("data") }

func (s *store) make() error {
	// 0700: what was downloaded with credentials is nobody else's.
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keep downloads: %w", err)
	}
	return nil
}

// load returns what is kept if it is whole, else nil.
func (s *store) load(ctx context.Context) (*record, error) {
	f, err := os.OpenFile(s.path("record.json"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	var r record
	if err != nil || json.Unmarshal(data, &r) != nil || r.Version != recordVersion || r.URL != s.url {
		return nil, nil
	}
	t, err := s.index.Scan(ctx, s.dataPath(), localtree.Options{})
	if err != nil {
		return nil, ctx.Err()
	}
	e := t.Entries
	if len(e) != 1 || !e[0].IsRegular() || e[0].Size != r.Size || e[0].Digest != r.Digest {
		return nil, nil
	}
	return &r, nil
}

// commit makes a finished partial file the data that r describes.
func (s *store) commit(r *record) error {
	r.Version, r.URL = recordVersion, s.url
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep download: %w", err)
	}
	// The content's time, as docker gives it to what ADD downloads, and not that of the
	// download: what is made of the file does not depend on when it came.
	at := time.Unix(0, 0)
	if t := r.modified(); !t.IsZero() {
		at = t
	}
	if err := os.Chtimes(s.path("partial"), at, at); err != nil {
		return fmt.Errorf("keep download: %w", err)
	}
	// What stands in the way can only be damage: a directory, say.
	if err := os.Rename(s.path("partial"), s.dataPath()); err != nil {
		if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("keep download: %w", err)
		}
		if err := os.RemoveAll(s.dataPath()); err != nil {
			return fmt.Errorf("keep download: %w", err)
		}
		if err := os.Rename(s.path("partial"), s.dataPath()); err != nil {
			return fmt.Errorf("keep download: %w", err)
		}
	}
	// Not flushed: after a power cut the bytes and the record are compared.
	if err := atomicfile.Write(s.path("record.json"), data, 0o600, atomicfile.NoSync); err != nil {
		return fmt.Errorf("keep download: %w", err)
	}
	return nil
}

// create opens an empty partial file.
func (s *store) create() (*os.File, error) {
	if err := os.RemoveAll(s.path("partial")); err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	f, err := os.OpenFile(s.path("partial"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	return f, nil
}

// discard removes the partial file.
func (s *store) discard() { _ = os.Remove(s.path("partial")) }

// conditions ask the server for the content only if it is another.
func (r *record) conditions() http.Header {
	h := http.Header{}
	if r.ETag != "" {
		h.Set("If-None-Match", r.ETag)
	}
	if r.LastModified != "" {
		h.Set("If-Modified-Since", r.LastModified)
	}
	return h
}

// isIn tells whether a response to a HEAD or GET says that the content is the kept
// one. The best that a server knows decides: a checksum, then the entity tag, then
// the time. A server that says nothing of these is not believed.
func (r *record) isIn(resp *http.Response) bool {
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified {
		return false
	}
	if sum := checksum(resp); sum != "" {
		return sum == r.Digest
	}
	if resp.StatusCode == http.StatusNotModified {
		return true
	}
	if text := resp.Header.Get("Content-Length"); text != "" && text != strconv.FormatInt(r.Size, 10) {
		return false
	}
	if r.ETag != "" {
		return resp.Header.Get("ETag") == r.ETag
	}
	return r.LastModified != "" && resp.Header.Get("Last-Modified") == r.LastModified
}

// lastModified is the time of a response's content, if it can tell this content from
// the next one. It counts in seconds: a file that was written in the second of the
// response may be written again in the same one (RFC 9110, section 8.8.2.2).
func lastModified(resp *http.Response) string {
	text := resp.Header.Get("Last-Modified")
	modified, err := http.ParseTime(text)
	now, err2 := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || err2 != nil || now.Sub(modified) < time.Second {
		return ""
	}
	return text
}

// checksum is the content's digest as some servers tell it.
func checksum(resp *http.Response) digest.Digest {
	d, err := wanted(resp.Header.Get("X-Checksum-Sha256"))
	if err != nil {
		return ""
	}
	return d
}
