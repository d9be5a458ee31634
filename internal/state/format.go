// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/atomicfile"
)

// The state directory:
//
//	README     what this is, for whoever finds it
//	format     the version of this layout, in decimal
//	lock       flock'ed: shared by builds, exclusive by prune
//	blobs/     package blob
//	cache/     package cache
//	trees/     package snapshot; belongs to root of the worker's user namespace
//	level      the level (package userns) whose worker made the trees
//	index/     package source/localtree: the stat index
//	http/      package source/httpfile
//	git/       package source/git
//	images/    package images
//	unsynced/  one empty file for each process that made trees and did not yet
//	           flush them: BOOTID.RANDOM, flock'ed while its process lives
const (
	formatVersion = "1"
	formatName    = "format"
	maxFormat     = 64 // bytes; a version has one or two
	lockName      = "lock"
	blobsDir      = "blobs"
	cacheDir      = "cache"
	treesDir      = "trees"
	mountsDir     = "mounts" // in treesDir, made by package worker: cache mounts
	unsyncedDir   = "unsynced"
	// IndexDir and HTTPDir are the parts for the packages under source.
	IndexDir = "index"
	HTTPDir  = "http"
	GitDir   = "git" // made by package source/git at the first need

	imagesDir = "images"
)

const readme = `This directory belongs to stacker, a builder of OCI images. It holds unpacked
base images, the results of build steps and downloads, shared by all of your
projects, and your named images. "stacker du" shows what takes space, "stacker
prune" makes room, "stacker ls" and "stacker rm" are for the images. It may be
deleted as a whole when no build runs: all but the images can be made again.
Files in it may belong to subordinate user ids: empty it with "stacker prune
--all", or delete it as root.
`

// prepare makes the directory and its parts, or checks what is there.
func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w; choose another place with --state or XDG_DATA_HOME", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat state directory %s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("state directory %s belongs to user id %d, not to you (%d): choose another with --state or XDG_DATA_HOME",
			dir, st.Uid, os.Geteuid())
	}
	// Steps' files lie below, with their set-user-id bits: nobody else may reach them.
	// Its group may search it: see letThrough.
	if st.Mode&0o067 != 0 {
		if st.Mode&0o022 != 0 && !empty(dir) {
			return fmt.Errorf("state directory %s can be written by others, so that nothing in it can be trusted: "+
				"remove it, or choose another with --state", dir)
		}
		if err := unix.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("protect state directory: %w", err)
		}
	}
	return prepareParts(dir)
}

func prepareParts(dir string) error {
	version, err := atomicfile.ReadRegular(filepath.Join(dir, formatName), maxFormat)
	if err == nil && len(version) > 0 { // an empty one was torn by a power cut
		if v := strings.TrimSpace(string(version)); v != formatVersion {
			return fmt.Errorf("state directory %s has format %q, this program knows %s: use the version of stacker that made it, "+
				"or another directory with --state", dir, v, formatVersion)
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open state directory: %w", err)
	}
	for _, d := range []string{blobsDir, cacheDir, treesDir, unsyncedDir, IndexDir, HTTPDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	if err := atomicfile.Write(filepath.Join(dir, "README"), []byte(readme), 0o600, atomicfile.NoSync); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, formatName), []byte(formatVersion+"\n"), 0o600, atomicfile.Sync)
}

func empty(dir string) bool {
	e, err := os.ReadDir(dir)
	return err == nil && len(e) == 0
}
