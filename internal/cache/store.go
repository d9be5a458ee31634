// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/lockfile"
)

// Store is a cache directory.
type Store struct{ dir string }

// Open makes the directory's parts where they are missing.
func Open(dir string) (*Store, error) {
	for _, d := range []string{"keys", "last", "lists", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

func (s *Store) keyPath(k Key) string { return filepath.Join(s.dir, "keys", string(k[:2]), string(k)) }

// Lookup returns what the key produced, or nil. A damaged record counts as absent.
func (s *Store) Lookup(k Key) *Record {
	r := readRecord(s.keyPath(k))
	if r == nil || r.Key != k || r.Ingredients.Key() != k {
		return nil
	}
	return r
}

// Put keeps a record under its key.
func (s *Store) Put(r *Record) error { return writeRecord(s.keyPath(r.Key), r) }

// verified are the ingredients of the fact that a blob unpacks to a diffID.
func verified(blob, diffID digest.Digest) Ingredients {
	return Ingredients{{Name: "blob", Value: string(blob)}, {Name: "diffID", Value: string(diffID)}}
}

// Verified tells whether somebody saw that the blob unpacks to the diffID: an
// image's config can say anything.
func (s *Store) Verified(blob, diffID digest.Digest) bool {
	return s.Lookup(verified(blob, diffID).Key()) != nil
}

// SetVerified keeps that the blob was seen to unpack to the diffID.
func (s *Store) SetVerified(blob, diffID digest.Digest, now time.Time) error {
	in := verified(blob, diffID)
	return s.Put(&Record{Step: "verify", Key: in.Key(), Created: now, Ingredients: in})
}

func seen(place string) Ingredients { return Ingredients{{Name: "seen", Value: place}} }

// Seen returns what SetSeen kept for a place: how a file looked when its content
// was known to be right; empty where nothing is kept.
func (s *Store) Seen(place string) string {
	if r := s.Lookup(seen(place).Key()); r != nil {
		return r.Result.Content
	}
	return ""
}

// SetSeen keeps how a file looks.
func (s *Store) SetSeen(place, look string, now time.Time) error {
	in := seen(place)
	return s.Put(&Record{Step: "seen", Key: in.Key(), Created: now, Ingredients: in, Result: Result{Content: look}})
}

// Remove forgets a key: its result turned out to be gone or damaged.
func (s *Store) Remove(k Key) error {
	err := os.Remove(s.keyPath(k))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Clear forgets all keys: something below them turned out to be damaged, and
// what was made on top of that cannot be told apart.
func (s *Store) Clear() error {
	p := filepath.Join(s.dir, "keys")
	if err := os.RemoveAll(p); err != nil {
		return fmt.Errorf("clear cache: %w", err)
	}
	return os.MkdirAll(p, 0o700)
}

// Touch marks a record as used now: prune removes what was not used for long.
func (s *Store) Touch(k Key, now time.Time) { _ = os.Chtimes(s.keyPath(k), now, now) }

func (s *Store) lastPath(step string) string {
	sum := sha256.Sum256([]byte(step))
	return filepath.Join(s.dir, "last", hex.EncodeToString(sum[:]))
}

// Last returns the ingredients of the step's last run, or nil. step is a
// graph.Vertex' StepID.
func (s *Store) Last(step string) *Record { return readRecord(s.lastPath(step)) }

// SetLast keeps what the step's run was made of, without its result.
func (s *Store) SetLast(step string, r *Record) error {
	if old := s.Last(step); old != nil && old.Key == r.Key {
		return nil
	}
	c := *r
	c.Result = Result{}
	return writeRecord(s.lastPath(step), &c)
}

// Walk calls f for each whole record with the time of its last use.
func (s *Store) Walk(f func(r *Record, used time.Time, size int64) error) error {
	return filepath.WalkDir(filepath.Join(s.dir, "keys"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // removed meanwhile
		}
		if r := readRecord(p); r != nil {
			return f(r, info.ModTime(), info.Size())
		}
		return nil
	})
}

func (s *Store) listPath(digest string) string {
	return filepath.Join(s.dir, "lists", digest[:2], digest)
}

// PutList keeps a listing and returns its name.
func (s *Store) PutList(data []byte) (string, error) {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	p := s.listPath(name)
	if _, err := os.Stat(p); err == nil {
		return name, nil
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return "", fmt.Errorf("keep listing: %w", err)
	}
	if err := atomicfile.Write(p, data, 0o600, atomicfile.NoSync); err != nil {
		return "", fmt.Errorf("keep listing: %w", err)
	}
	return name, nil
}

// List returns a kept listing, or nil where it is gone or damaged.
func (s *Store) List(name string) []byte {
	if len(name) != 2*sha256.Size {
		return nil
	}
	data, err := readFile(s.listPath(name))
	if err != nil {
		return nil
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != name {
		_ = os.Remove(s.listPath(name))
		return nil
	}
	return data
}

// Lock takes the key's lock: equal work is done once, also across processes.
// onWait is called once when another process holds it.
func (s *Store) Lock(ctx context.Context, k Key, onWait func()) (unlock func(), err error) {
	return lockfile.Lock(ctx, filepath.Join(s.dir, "locks", string(k)), onWait)
}

// maxFile bounds a record and a listing, in bytes.
const maxFile = 1 << 30

// readFile reads a regular file of the cache. Anything else in its place is
// damage: it is removed, and counts as absent.
func readFile(path string) ([]byte, error) {
	data, err := atomicfile.ReadRegular(path, maxFile)
	if errors.Is(err, atomicfile.ErrDamaged) || errors.Is(err, fs.ErrPermission) {
		_ = os.RemoveAll(path)
	}
	return data, err
}

func readRecord(path string) *Record {
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	head, body, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	var r Record
	if !ok || string(head) != recordMagic+hex.EncodeToString(sum[:]) || json.Unmarshal(body, &r) != nil {
		_ = os.Remove(path) // damaged: the step runs again
		return nil
	}
	return &r
}

func writeRecord(path string, r *Record) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	sum := sha256.Sum256(body)
	data := append([]byte(recordMagic+hex.EncodeToString(sum[:])+"\n"), body...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep record: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o600, atomicfile.NoSync); err != nil {
		return fmt.Errorf("keep record: %w", err)
	}
	return nil
}

// RemoveUnused removes locks and listings. Nobody may be building. Listings are
// only there to tell differences, and are made again with the next scan.
func (s *Store) RemoveUnused() error {
	for _, d := range []string{"locks", "lists"} {
		p := filepath.Join(s.dir, d)
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove %s: %w", d, err)
		}
		if err := os.Mkdir(p, 0o700); err != nil {
			return fmt.Errorf("remove %s: %w", d, err)
		}
	}
	return nil
}
