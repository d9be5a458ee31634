// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// encode gives a document as JSON that people can read, too. Fields are in the
// order of the structs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode bill of materials: %w", err)
	}
	return b.Bytes(), nil
}

// unique is a UUID (RFC 9562, version 8) made of everything that a document holds.
func unique(inv Inventory, s Subject) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	_ = e.Encode(inv) // plain data into a hash: neither can fail
	_ = e.Encode(s)
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	x := hex.EncodeToString(u)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// shortSum tells texts apart, in 16 characters.
func shortSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// shorten keeps identifiers readable.
func shorten(s string) string {
	const most = 60
	return s[:min(len(s), most)]
}
