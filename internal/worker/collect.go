// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"io"
	"path/filepath"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// Limits of what a step may put into the directory that is collected. It ends in
// an image's config, which readers bound to a few megabytes.
const (
	maxCollected      = 1000
	maxCollectedBytes = 1 << 20
)

// collectDir is the directory that a step sees as ExecRequest.Collect.
func collectDir(a snapshot.Active) string { return filepath.Join(a.Extra, "..", "collect") }

// collect reads the files of a directory that a step wrote to. The step is not
// trusted: a link is not followed, and what is no file or no text is refused.
func collect(dir string) (map[string]string, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("collect files: %w", err)
	}
	defer root.Close()
	d, err := root.Dir()
	if err != nil {
		return nil, fmt.Errorf("collect files: %w", err)
	}
	defer d.Close()
	list, err := d.ReadDir()
	if err != nil {
		return nil, fmt.Errorf("collect files: %w", err)
	}
	if len(list) > maxCollected {
		return nil, fmt.Errorf("collect files: %d files are more than %d", len(list), maxCollected)
	}
	out := map[string]string{}
	room := int64(maxCollectedBytes)
	for _, e := range list {
		data, err := collectFile(d, e.Name, room)
		if err != nil {
			return nil, fmt.Errorf("collect files: %w", err)
		}
		out[e.Name] = data
		room -= int64(len(data))
	}
	return out, nil
}

func collectFile(d *rootfs.Dir, name string, room int64) (string, error) {
	st, err := d.Lstat(name)
	if err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", fmt.Errorf("%q is not a file", name)
	}
	f, err := d.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, room+1))
	if err != nil {
		return "", fmt.Errorf("read %q: %w", name, err)
	}
	if int64(len(data)) > room {
		return "", fmt.Errorf("the files are larger than %d bytes together", maxCollectedBytes)
	}
	if !utf8.Valid(data) || !utf8.ValidString(name) {
		return "", fmt.Errorf("%q is not text in UTF-8", name)
	}
	return string(data), nil
}
