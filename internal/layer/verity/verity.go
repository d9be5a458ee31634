// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package verity appends dm-verity hash trees to file system images and verifies
// them: what "veritysetup format" and "veritysetup verify" do, for one file that
// holds data and tree.
//
// A tree lets the kernel verify each block of an image when it is read, against
// one root hash. The format is that of cryptsetup, version 1: SHA-256, blocks of
// 4096 bytes, the superblock and the tree right behind the data. The root hash is
// not in the file: it belongs where the image is named.
//
// Salt and UUID are made from the digest of the data, so equal images get equal
// trees. A salt keeps anybody from preparing collisions for all images at once; it
// need not be secret or random for that.
//
// The package neither mounts nor sets up devices. Verify trusts nothing but the
// root hash it is given.
package verity

import (
	"encoding/hex"
	"fmt"
)

// A Hash is the root hash of a tree.
type Hash [hashSize]byte

// String gives h as 64 hexadecimal digits, as veritysetup prints it.
func (h Hash) String() string {
	return hex.EncodeToString(h[:])
}

// ParseHash reads what String gives.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != hex.EncodedLen(len(h)) {
		return Hash{}, fmt.Errorf("root hash %q: want %d hexadecimal digits", s, hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("root hash %q: %w", s, err)
	}
	return h, nil
}
