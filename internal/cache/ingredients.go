// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package cache keeps what a key produced, and what the key was made of.
//
// A key is the digest of named ingredients: everything that can change a step's
// result and nothing else. The ingredients are kept with the result, so that
// "why did this run again?" is answered from records (see Explain). The package
// owns the directory described in format.go; any number of processes may use it
// at once. It holds no layers and no blobs: results name them by digest.
package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Ingredient is one named thing that a key depends on.
type Ingredient struct {
	Name  string `json:"name"`  // for people: "script", "env PATH", "import foo"
	Value string `json:"value"` // the text itself, or a digest
	// List names a kept listing (see Store.PutList) that Value is the digest of,
	// so that a difference can be told file by file.
	List string `json:"list,omitempty"`
}

// Ingredients is everything that a key depends on, in a fixed order.
type Ingredients []Ingredient

// Add appends an ingredient.
func (in *Ingredients) Add(name, value string) {
	*in = append(*in, Ingredient{Name: name, Value: value})
}

// Key is the digest of ingredients, in hex. It names a file, so it is always
// 64 characters of 0-9a-f.
type Key string

// Key hashes names and values, each framed by its length: no two different
// lists give the same bytes.
func (in Ingredients) Key() Key {
	h := sha256.New()
	var n [8]byte
	frame := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	frame(keyVersion)
	for _, i := range in {
		frame(i.Name)
		frame(i.Value)
	}
	return Key(hex.EncodeToString(h.Sum(nil)))
}
