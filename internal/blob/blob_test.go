// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func newStore(t *testing.T, opts Options) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "blobs")
	s, err := Create(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, dir
}

func describe(data string) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}
}

func read(s *Store, d ocispec.Descriptor) (string, error) {
	data, err := s.ReadAll(context.Background(), d, 1<<20)
	return string(data), err
}

// names returns what is in the directory of whole blobs.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, algorithmDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteAndRead(t *testing.T) {
	for _, opts := range []Options{{}, {Sync: true, FileMode: 0o644, DirMode: 0o755}} {
		old := unix.Umask(0o077)
		s, dir := newStore(t, opts)
		want := describe("hello")
		got, err := s.Put([]byte("hello"))
		unix.Umask(old)
		if err != nil || got.Digest != want.Digest || got.Size != want.Size {
			t.Fatalf("Put: got %v, %v, want %v", got, err, want)
		}
		if data, err := read(s, want); data != "hello" || err != nil {
			t.Errorf("read: got %q, %v", data, err)
		}
		if size, err := s.Stat(want.Digest); size != 5 || err != nil {
			t.Errorf("Stat: got %d, %v", size, err)
		}
		info, err := os.Stat(filepath.Join(dir, algorithmDir, want.Digest.Encoded()))
		if err != nil || info.Mode().Perm() != s.opts.FileMode {
			t.Errorf("mode is %v, %v, want %v", info.Mode(), err, s.opts.FileMode)
		}
		info, err = os.Stat(filepath.Join(dir, algorithmDir))
		if err != nil || info.Mode().Perm() != s.opts.DirMode {
			t.Errorf("mode of the directory is %v, %v, want %v", info.Mode(), err, s.opts.DirMode)
		}
		if _, err := s.Put([]byte("hello")); err != nil {
			t.Errorf("Put again: %v", err)
		}
		if n := names(t, dir); len(n) != 1 {
			t.Errorf("store holds %q, want one blob", n)
		}
		if err := s.Sync(); err != nil {
			t.Error(err)
		}
	}
}

func TestCommitRefuses(t *testing.T) {
	s, dir := newStore(t, Options{})
	for _, tt := range []struct {
		want digest.Digest
		size int64
	}{{digest.FromString("other"), -1}, {describe("hello").Digest, 4}, {"", 6}, {"sha256:../../x", -1}} {
		w, err := s.Create()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(tt.want, tt.size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Commit(%s, %d): got %v, want ErrCorrupt", tt.want, tt.size, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := names(t, dir); len(n) != 0 {
		t.Errorf("store holds %q, want nothing", n)
	}
}

func TestNotFound(t *testing.T) {
	s, _ := newStore(t, Options{})
	d := describe("x")
	if _, err := read(s, d); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open: got %v, want ErrNotFound", err)
	}
	if _, err := s.Stat(d.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("Stat: got %v, want ErrNotFound", err)
	}
	if err := s.Remove(d.Digest); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of a missing store: got %v, want ErrNotFound", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:", "sha256:../../x", "sha512:" + d.Digest[7:]} {
		if _, _, err := s.File(bad); err == nil {
			t.Errorf("File(%q): got no error", bad)
		}
	}
}

// TestDamage puts every kind of damage in the place of a blob. Reading must notice,
// writing must mend, and nothing outside may change.
func TestDamage(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(path string) error{
		"flip":      func(p string) error { return os.WriteFile(p, []byte("hallo"), 0o600) },
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"grown":     func(p string) error { return os.WriteFile(p, []byte("hello!"), 0o600) },
		"symlink":   func(p string) error { return os.Symlink(canary, p) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t, Options{})
			d, err := s.Put([]byte("hello"))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, algorithmDir, d.Digest.Encoded())
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if got, err := read(s, d); !errors.Is(err, ErrCorrupt) {
				t.Errorf("read: got %q, %v, want ErrCorrupt", got, err)
			}
			if _, err := s.Put([]byte("hello")); err != nil {
				t.Errorf("Put: %v", err)
			}
			if got, err := read(s, d); got != "hello" || err != nil {
				t.Errorf("read after Put: got %q, %v", got, err)
			}
			if got, err := os.ReadFile(canary); string(got) != "hello" || err != nil {
				t.Errorf("canary: got %q, %v", got, err)
			}
		})
	}
}

func TestLinkedDirectoryIsRefused(t *testing.T) {
	s, dir := newStore(t, Options{})
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, algorithmDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put([]byte("x")); err == nil {
		t.Error("Put wrote through a symbolic link")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("outside holds %v", entries)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(link, Options{}); err == nil {
		t.Error("Open followed a symbolic link")
	}
}

func TestVerify(t *testing.T) {
	d := describe("hello")
	tests := []struct {
		name, data string
		desc       ocispec.Descriptor
		ok         bool
	}{
		{"right", "hello", d, true},
		{"short", "hell", d, false},
		{"long", "hello!", d, false},
		{"other", "hallo", d, false},
		{"huge size", "hello", ocispec.Descriptor{Digest: d.Digest, Size: 1<<63 - 1}, false},
		{"negative size", "hello", ocispec.Descriptor{Digest: d.Digest, Size: -1}, false},
		{"empty", "", describe(""), true},
	}
	for _, tt := range tests {
		got, err := io.ReadAll(Verify(io.NopCloser(strings.NewReader(tt.data)), tt.desc))
		if tt.ok && (err != nil || string(got) != tt.data) || !tt.ok && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %q, %v", tt.name, got, err)
		}
	}
}

func TestWalkAndRemoveStale(t *testing.T) {
	s, dir := newStore(t, Options{})
	if err := s.Walk(func(digest.Digest, int64) error { t.Error("an empty store has a blob"); return nil }); err != nil {
		t.Error(err)
	}
	for _, data := range []string{"a", "bb"} {
		if _, err := s.Put([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{tempPrefix + "dead", "README"} {
		if err := os.WriteFile(filepath.Join(dir, algorithmDir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	live, err := os.Create(filepath.Join(dir, algorithmDir, tempPrefix+"live"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.Close() }()
	if err := unix.Flock(int(live.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveStale(); err != nil {
		t.Fatal(err)
	}
	got := map[digest.Digest]int64{}
	if err := s.Walk(func(d digest.Digest, size int64) error { got[d] = size; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[describe("a").Digest] != 1 || got[describe("bb").Digest] != 2 {
		t.Errorf("Walk: got %v", got)
	}
	if n := names(t, dir); len(n) != 4 {
		t.Errorf("left: %q, want two blobs, README and the live file", n)
	}
}

func TestFetchResumes(t *testing.T) {
	s, _ := newStore(t, Options{})
	data := strings.Repeat("0123456789", 1000)
	d := describe(data)
	broken := errors.New("connection lost")
	var offsets []int64
	open := func(limit int64) func(context.Context, int64) (io.ReadCloser, error) {
		return func(_ context.Context, offset int64) (io.ReadCloser, error) {
			offsets = append(offsets, offset)
			rest := io.Reader(strings.NewReader(data[offset:]))
			if limit > 0 {
				rest = io.MultiReader(io.LimitReader(rest, limit), failing{broken})
			}
			return io.NopCloser(rest), nil
		}
	}
	ctx := context.Background()
	if err := s.Fetch(ctx, d, open(4000)); !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
	if s.Has(d) {
		t.Error("half a blob counts as one")
	}
	if err := s.Fetch(ctx, d, open(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Fetch(ctx, d, open(0)); err != nil {
		t.Fatal(err)
	}
	if len(offsets) != 2 || offsets[1] != 4000 {
		t.Errorf("opened at %v, want 0 and 4000", offsets)
	}
	if got, err := read(s, d); got != data || err != nil {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestFetchMendsBadBeginning(t *testing.T) {
	s, dir := newStore(t, Options{})
	d := describe("hello world")
	for _, begin := range []string{"xxxx", "hello worlD", "much longer than the blob is"} {
		if err := os.MkdirAll(filepath.Join(dir, partialDir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, partialDir, d.Digest.Encoded()), []byte(begin), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Fetch(context.Background(), d, func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("hello world"[offset:])), nil
		})
		if err != nil {
			t.Errorf("beginning %q: %v", begin, err)
		}
		if got, err := read(s, d); got != "hello world" || err != nil {
			t.Errorf("beginning %q: read %q, %v", begin, got, err)
		}
		if err := s.Remove(d.Digest); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	s, dir := newStore(t, Options{})
	d := describe("hello")
	for _, bad := range []string{"hallo", "hello!", "hell", ""} {
		err := s.Fetch(context.Background(), d, func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(bad[min(int(offset), len(bad)):])), nil
		})
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: got %v, want ErrCorrupt", bad, err)
		}
	}
	if n := names(t, dir); len(n) != 0 {
		t.Errorf("store holds %q", n)
	}
}

// TestFetchOnce has many goroutines ask for one blob; a flock belongs to an open
// file, so they stand for processes.
func TestFetchOnce(t *testing.T) {
	s, _ := newStore(t, Options{})
	data := bytes.Repeat([]byte("x"), 1<<20)
	d := describe(string(data))
	var opened atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := s.Fetch(context.Background(), d, func(context.Context, int64) (io.ReadCloser, error) {
				opened.Add(1)
				return io.NopCloser(bytes.NewReader(data)), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := opened.Load(); n != 1 {
		t.Errorf("downloaded %d times, want once", n)
	}
}

func TestResumeWaitsForContext(t *testing.T) {
	s, _ := newStore(t, Options{})
	p, err := s.Resume(context.Background(), describe("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Resume(ctx, describe("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
