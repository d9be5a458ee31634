// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package snapshot is the contract of the drivers that keep root file systems.
//
// A committed tree is one layer in overlay format: a directory with what the
// layer adds, whiteouts as character devices 0:0, opaque directories marked by
// the attribute user.overlay.opaque=y. A root file system is a stack of trees,
// bottom first, with a writable top while a step runs. A driver never mounts:
// it says what to mount. Every driver runs the suite of package snapshottest.
package snapshot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Names of drivers, as users write them.
const (
	Auto    = "auto" // whichever is best of those that work
	Overlay = "overlay"
	Native  = "native"
	Btrfs   = "btrfs"
	Fuse    = "fuse-overlayfs" // only where the user asks for it
)

// Active is a writable snapshot on top of a stack of trees.
type Active struct {
	ID     string
	Lowers []string // paths of trees, bottom first
	Upper  string   // what is written lands here, in overlay format
	Work   string   // scratch of the overlay file system
	Extra  string   // an empty directory for the use of whoever mounts

	// Root is set by drivers without an overlay: a directory that shows the stack and
	// may be written to, to be mounted as it is. Upper stays empty until Capture.
	Root string
}

// Driver keeps trees and active snapshots below one directory.
//
// The life of an active snapshot is Prepare, Begin when all is there that a step
// sees and did not make itself, the step, Capture, and Adopt of its Upper or
// Commit; and Discard in any case. Begin and Capture may be left out where nothing
// is kept. With Root, Capture uses it up.
//
// What must hold, and what the suite tests: a committed tree is never changed
// by later snapshots; an active snapshot shows exactly its stack; Commit is
// atomic (the name holds the whole tree or does not exist); Commit under a name
// that exists keeps the existing tree and drops the new one; Discard and Remove
// succeed on anything that a step can leave behind (mode 0 directories, foreign
// owners), and on what does not exist.
type Driver interface {
	// Name is the driver's name on the command line.
	Name() string
	// Prepare makes a writable snapshot over the trees named.
	Prepare(ctx context.Context, id string, lower []string) (Active, error)
	// Begin notes how Root is before the step. touched are paths in it, parents
	// first, that were made or changed since Prepare: they are not the step's work.
	Begin(ctx context.Context, a Active, touched []string) error
	// Capture brings what changed in Root since Begin into Upper, in overlay format.
	Capture(ctx context.Context, a Active) error
	// Dir makes an empty directory that Adopt can turn into a tree.
	Dir(id string) (string, error)
	// Commit keeps what Capture found as a tree, and discards the snapshot.
	Commit(a Active, tree string) error
	// Adopt keeps a directory made by Dir as a tree.
	Adopt(dir, tree string) error
	// Discard drops an active snapshot or a directory of Dir.
	Discard(id string) error
	// Remove deletes a tree.
	Remove(tree string) error
	// Path says where a tree lies.
	Path(tree string) string
	// Exists tells whether the tree was committed.
	Exists(tree string) bool
}

// Chain is the identity of a stack of layers: that of the layers below, empty for
// none, and one more diffID. It is not the chainID of the OCI image
// specification: that of a stack of one is its diffID, so that an image can be
// made whose only layer has the chainID of another image's whole stack.
func Chain(below, diffID string) string {
	sum := sha256.Sum256([]byte("stacker chain\x00" + below + "\x00" + diffID))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// LayerTree names the tree of a layer by its Chain: what a layer shows can
// depend on those below it, for directories that it does not describe itself.
func LayerTree(chain string) string { return "layer/" + hexOf(chain) }

// NamesTree names a tree that has what the layer's tree has, but for what regular
// files hold: to look for names in, where nobody needs the files.
func NamesTree(chain string) string { return "names/" + hexOf(chain) }

// FilesTree names a tree of files by their content.
func FilesTree(content string) string { return "files/" + hexOf(content) }

// hexOf gives the hex part of a digest. Digests come from parsed documents,
// where they were checked; anything else must not become a path.
func hexOf(d string) string {
	_, h, ok := strings.Cut(d, ":")
	if !ok {
		h = d
	}
	if len(h) < 32 || strings.Trim(h, "0123456789abcdef") != "" {
		return "invalid-" + hex.EncodeToString([]byte(d))
	}
	return h
}

// NewID makes a name for an active snapshot that nobody else uses.
func NewID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
