// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// ID is the digest of what the vertex does and of all that it reads: vertices
// with the same ID are the same work. Names and positions for people are not
// part of it. It is no cache key: it says where inputs come from, not what they hold.
func (v *Vertex) ID() string {
	ids := make(map[*Vertex]string)
	return v.id(ids)
}

// IDs computes the ID of every vertex that v needs, itself included.
func (v *Vertex) IDs(into map[*Vertex]string) { v.id(into) }

func (v *Vertex) id(known map[*Vertex]string) string {
	if id, ok := known[v]; ok {
		return id
	}
	type node struct {
		Kind   string
		Op     Op
		Inputs []string
	}
	n := node{Kind: fmt.Sprintf("%T", v.Op), Op: v.Op}
	for _, in := range v.Inputs {
		n.Inputs = append(n.Inputs, in.id(known))
	}
	// Ops are plain data, so that encoding cannot fail, and JSON writes struct
	// fields in their order.
	b, err := json.Marshal(n)
	if err != nil {
		panic(fmt.Sprintf("encode op %T: %v", v.Op, err))
	}
	sum := sha256.Sum256(b)
	known[v] = hex.EncodeToString(sum[:])
	return known[v]
}
