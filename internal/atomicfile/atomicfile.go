// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces a file in one step: readers see the old content or
// the new, whatever happens in between.
package atomicfile

import (
	"fmt"
	"os"
	"path/filepath"
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

// SyncDir flushes a directory's entries.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
