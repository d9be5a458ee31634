// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package archive reads and writes tar archives of images: OCI layouts in a tar
// (oci-archive), and what docker save writes and docker load reads
// (docker-archive). What is written for docker is both: a layout, and
// manifest.json beside it.
//
// Writing streams: a blob goes into the archive while it is made, and only index
// and names are kept in memory. The same images in the same order give the same
// bytes: members have no times, owners or names of this machine.
//
// An archive that is read may come from anyone. It is scanned once; members are
// found by that scan and are never written anywhere under their names. Links are
// followed to members of the archive only. Members that are no files, directories
// or links, and names that stand twice, are refused. Bytes are verified by whoever
// reads them: see [Reader.Open].
package archive

import (
	"errors"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrFormat is returned for what is no archive of images.
var ErrFormat = errors.New("not an archive of images")

// ErrNotFound is returned for an image or a blob that an archive does not have.
var ErrNotFound = errors.New("not in the archive")

// Names of members.
const (
	layoutName   = ocispec.ImageLayoutFile
	indexName    = "index.json"
	manifestName = "manifest.json"
	blobsDir     = "blobs/sha256/"

	layoutContent = `{"imageLayoutVersion":"1.0.0"}`
)

// annotationName carries the complete name of an image in index.json; docker and
// containerd read and write it.
const annotationName = "io.containerd.image.name"

// Limits of archives that are read.
const (
	maxMembers  = 200_000
	maxDocument = 4 << 20 // bytes of index.json and of manifest.json
	maxImages   = 10_000
	maxHops     = 10 // links that lead to one another
)

// blobName is the member of a blob.
func blobName(d digest.Digest) string { return blobsDir + d.Encoded() }

// clean gives a member's name one form; false: it leads out of the archive.
func clean(name string) (string, bool) {
	if strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", false
	}
	name = path.Clean(name)
	return name, name != ".." && !strings.HasPrefix(name, "../")
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}
