// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces a file in one step: readers see the old content or
// the new, whatever happens in between.
package atomicfile

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Durability says what holds after a power cut.
type Durability int

const (
	// Sync flushes the file and its directory before Write returns.
	Sync Durability = iota
	// NoSync leaves it to the kernel: a power cut may lose or empty the file, so
	// its content must be checked when it is read.
	NoSync
)

// Write replaces path by data with mode, whatever the umask is. The temporary
// file lies in the same directory and is removed on failure.
func Write(path string, data []byte, mode os.FileMode, d Durability) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if d == Sync {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d == Sync {
		return SyncDir(dir)
	}
	return nil
}

const (
	besidePrefix = ".stacker-"
	besideLength = 26 // of what rand.Text gives
)

// Beside gives the name of a new file in the directory of path, for what is written for
// longer than Write takes, and then renamed to path.
func Beside(path string) string {
	return filepath.Join(filepath.Dir(path), besidePrefix+rand.Text())
}

// IsBeside tells whether a name, without a directory, is one that Beside gives. Such a
// file is half of something: who reads a directory of the user's leaves it out.
func IsBeside(name string) bool {
	rest, ok := strings.CutPrefix(name, besidePrefix)
	return ok && len(rest) == besideLength && strings.Trim(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// SyncDir flushes a directory's entries.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
