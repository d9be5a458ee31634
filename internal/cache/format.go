// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/snapshot"
)

// The directory of the cache:
//
//	keys/AA/KEY      one record: what a key produced. AA: KEY's first two characters
//	last/STEP        the record of a step's last run. STEP: sha256 of its StepID
//	lists/AA/DIGEST  a listing of files that an ingredient names
//	locks/KEY        empty; flock'ed by the process that works on KEY
//
// A record is two lines: "stacker-record 1 SHA256" with the digest of the rest,
// and the JSON of Record. A file that does not match is removed and counts as
// absent: the step runs again. Files are written beside their place and renamed.
const recordMagic = "stacker-record 1 "

// keyVersion is part of every key: it changes when the same ingredients would
// no longer give the same result.
const keyVersion = "stacker key 1"

// Steps of records that are of no build file: their one layer is a blob, which stands on
// nothing, and has no tree.
const (
	PackStep    = "pack"
	ConvertStep = "convert"
)

// Layer is one layer of a result.
type Layer struct {
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"` // of the uncompressed tar, in bytes; 0 where unknown
	// Blob is the layer as its image has it; nil for layers made here as trees, whose
	// tar is made again from the tree when it is exported.
	Blob *ocispec.Descriptor `json:"blob,omitempty"`
	// Origin is the image that Blob belongs to: "docker://…" or "oci:/path:tag". Empty:
	// the layer was made here, and the blob is in the state directory.
	Origin    string    `json:"origin,omitempty"`
	Insecure  bool      `json:"insecure,omitempty"`
	CreatedBy string    `json:"createdBy,omitempty"` // history text of layers made here
	Created   time.Time `json:"created,omitzero"`    // when it was made
	// Clamp repeats the SOURCE_DATE_EPOCH and the start of the step that the
	// tar was made with (seconds since 1970, nanoseconds for Start).
	Clamp *int64 `json:"clamp,omitempty"`
	Start int64  `json:"start,omitempty"`
	// Tree names the tree where it is not that of the chain: the layer was made on
	// other layers than it lies on here (see graph.Merge).
	Tree string `json:"tree,omitempty"`
	// WithRoot: the tar has an entry for the root directory itself.
	WithRoot bool `json:"withRoot,omitempty"`
}

// Packed tells whether the layer was made here, as a blob.
func (l Layer) Packed() bool { return l.Blob != nil && l.Origin == "" }

// Result is what a vertex produced: a stack of layers, or files from outside.
type Result struct {
	Layers []Layer `json:"layers,omitempty"`

	// Of an image source: its documents.
	Image *SourceImage `json:"image,omitempty"`

	// Of Local, HTTP and Pick: the identity of the files.
	Content string `json:"content,omitempty"` // digest over names, modes and bytes
	List    string `json:"list,omitempty"`    // kept listing behind Content
	Path    string `json:"path,omitempty"`    // where Local and HTTP have it
	Mode    uint32 `json:"mode,omitempty"`    // permission bits to take instead of the file's own; 0: its own
	Pick    *Pick  `json:"pick,omitempty"`

	// Of an Exec that collects files: what they hold, by name.
	Files map[string]string `json:"files,omitempty"`
}

// Pick says where the files of a graph.Pick lie.
type Pick struct {
	Layers []Layer `json:"layers"`
	Path   string  `json:"path"`
	Hash   string  `json:"hash,omitempty"` // sha256 in hex that a file must have
}

// SourceImage is an image that a build starts from.
type SourceImage struct {
	Manifest    ocispec.Descriptor `json:"manifest"`
	Config      []byte             `json:"config"` // the config document as it is
	Annotations map[string]string  `json:"annotations,omitempty"`
}

// Chain is the identity of a stack of layers, empty for none: see package snapshot.
func (r Result) Chain() string { return Chain(r.Layers) }

// Chain is the identity of the layers, bottom first.
func Chain(layers []Layer) string {
	id := ""
	for _, l := range layers {
		id = snapshot.Chain(id, string(l.DiffID))
	}
	return id
}

// Tree names the tree of layer i of a stack.
func Tree(layers []Layer, i int) string {
	if t := layers[i].Tree; t != "" {
		return t
	}
	return snapshot.LayerTree(Chain(layers[:i+1]))
}

// Trees names the trees of all layers of a stack: see Tree.
func Trees(layers []Layer) []string {
	out := make([]string, len(layers))
	id := ""
	for i, l := range layers {
		id = snapshot.Chain(id, string(l.DiffID))
		if out[i] = l.Tree; l.Tree == "" {
			out[i] = snapshot.LayerTree(id)
		}
	}
	return out
}

// emptyDiffID is the digest of a tar without entries: two blocks of zeros.
const emptyDiffID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

// Unchanged tells whether a layer that was made here, on the layers that it lies on,
// shows just what these show.
func (l *Layer) Unchanged() bool {
	return l.DiffID == emptyDiffID && l.Blob == nil && l.Tree == "" && !l.WithRoot
}

// Record is a result with what led to it.
type Record struct {
	Step        string        `json:"step"` // the step as people call it
	Key         Key           `json:"key"`
	Created     time.Time     `json:"created"`
	Duration    time.Duration `json:"duration"` // nanoseconds that the step took
	Ingredients Ingredients   `json:"ingredients"`
	Result      Result        `json:"result"`
}
