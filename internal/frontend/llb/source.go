// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package llb

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"build.stacker.dev/internal/graph"
)

// source fills in a vertex that takes something from outside.
func (l *loader) source(v *graph.Vertex, s *pb.SourceOp, p *pb.Platform) error {
	scheme, rest, ok := strings.Cut(s.Identifier, "://")
	if !ok {
		return fmt.Errorf("LLB source %q: it has no scheme", s.Identifier)
	}
	var err error
	switch scheme {
	case "docker-image":
		v.Op, err = l.image(rest, s.Attrs, p)
	case "oci-layout":
		v.Op, err = l.layout(s, p)
	case "local":
		v.Op, err = l.context(rest, s.Attrs)
	case "git":
		v.Op, err = gitSource(rest, s.Attrs)
	case "http", "https":
		v.Op, err = download(s)
	default:
		err = fmt.Errorf("LLB source %q: %s is not supported", s.Identifier, scheme)
	}
	return err
}

// refuse returns an error for attributes that ask for what is not done.
func refuse(attrs map[string]string, known ...string) error {
	ok := map[string]bool{}
	for _, k := range known {
		ok[k] = true
	}
	for k, v := range attrs {
		if !ok[k] && v != "" {
			return fmt.Errorf("LLB source attribute %s=%s is not supported", k, v)
		}
	}
	return nil
}

func (l *loader) image(ref string, attrs map[string]string, p *pb.Platform) (graph.Op, error) {
	err := refuse(attrs, pb.AttrImageResolveMode, pb.AttrImageRecordType)
	if l.Rename != nil {
		ref = l.Rename(ref)
	}
	op := graph.Image{Reference: ref}
	setPlatform(&op, p)
	return op, err
}

func setPlatform(op *graph.Image, p *pb.Platform) {
	if p != nil {
		op.OS, op.Arch, op.Variant = p.OS, p.Architecture, p.Variant
	}
}

func (l *loader) layout(s *pb.SourceOp, p *pb.Platform) (graph.Op, error) {
	store := s.Attrs[pb.AttrOCILayoutStoreID]
	name, ok := l.Layouts[store]
	if !ok {
		return nil, fmt.Errorf("there is no OCI layout %q: give it with --build-context", store)
	}
	op := graph.Image{Reference: name}
	setPlatform(&op, p)
	return op, refuse(s.Attrs, pb.AttrOCILayoutStoreID, pb.AttrOCILayoutSessionID)
}

func (l *loader) context(name string, attrs map[string]string) (graph.Op, error) {
	dir, err := l.local(name)
	if err != nil {
		return nil, err
	}
	op := graph.Context{Path: dir, Name: name}
	for key, to := range map[string]*[]string{
		pb.AttrIncludePatterns: &op.Include, pb.AttrExcludePatterns: &op.Exclude, pb.AttrFollowPaths: &op.Follow,
	} {
		if text := attrs[key]; text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return nil, fmt.Errorf("LLB source local://%s: read %s: %w", name, key, err)
			}
		}
	}
	return op, refuse(attrs, pb.AttrIncludePatterns, pb.AttrExcludePatterns, pb.AttrFollowPaths,
		pb.AttrLocalSessionID, pb.AttrLocalUniqueID, pb.AttrSharedKeyHint, pb.AttrLocalDiffer)
}

func gitSource(rest string, attrs map[string]string) (graph.Op, error) {
	err := refuse(attrs, pb.AttrKeepGitDir, pb.AttrFullRemoteURL, pb.AttrAuthHeaderSecret, pb.AttrAuthTokenSecret,
		pb.AttrKnownSSHHosts, pb.AttrMountSSHSock, pb.AttrGitChecksum, pb.AttrGitSkipSubmodules, pb.AttrGitMTime,
		pb.AttrGitFetchByCommit, pb.AttrGitAdvice)
	if err != nil {
		return nil, err
	}
	remote, fragment, _ := strings.Cut(rest, "#")
	ref, subdir, _ := strings.Cut(fragment, ":")
	op := graph.Git{
		Remote: remote, Ref: ref, Subdir: subdir,
		KeepGitDir: attrs[pb.AttrKeepGitDir] == "true", SkipSubmodules: attrs[pb.AttrGitSkipSubmodules] == "true",
		Checksum: attrs[pb.AttrGitChecksum], CommitTimes: attrs[pb.AttrGitMTime] == "commit",
		TokenSecret: attrs[pb.AttrAuthTokenSecret], HeaderSecret: attrs[pb.AttrAuthHeaderSecret],
		KnownHosts: attrs[pb.AttrKnownSSHHosts], SSH: attrs[pb.AttrMountSSHSock],
	}
	if full := attrs[pb.AttrFullRemoteURL]; full != "" {
		op.Remote = full
	}
	return op, nil
}

func download(s *pb.SourceOp) (graph.Op, error) {
	err := refuse(s.Attrs, pb.AttrHTTPChecksum, pb.AttrHTTPFilename, pb.AttrHTTPPerm, pb.AttrHTTPUID, pb.AttrHTTPGID)
	if err != nil {
		return nil, err
	}
	op := graph.Download{URL: s.Identifier, Checksum: s.Attrs[pb.AttrHTTPChecksum], Filename: s.Attrs[pb.AttrHTTPFilename]}
	if op.Filename == "" {
		op.Filename = path.Base(s.Identifier)
	}
	if op.Filename != path.Base(path.Clean("/"+op.Filename)) {
		return nil, fmt.Errorf("LLB source %s: bad file name %q", s.Identifier, op.Filename)
	}
	for key, f := range map[string]func(uint64){
		pb.AttrHTTPPerm: func(n uint64) { op.Mode = uint32(n) },
		pb.AttrHTTPUID:  func(n uint64) { op.UID = int(n) },
		pb.AttrHTTPGID:  func(n uint64) { op.GID = int(n) },
	} {
		text := s.Attrs[key]
		if text == "" {
			continue
		}
		base := 10
		if key == pb.AttrHTTPPerm {
			base = 0
		}
		n, err := strconv.ParseUint(text, base, 31)
		if err != nil {
			return nil, fmt.Errorf("LLB source %s: read %s: %w", s.Identifier, key, err)
		}
		f(n)
	}
	return op, nil
}

// Source gives the op of a source alone.
func Source(s *pb.SourceOp, p *pb.Platform, o Options) (graph.Op, error) {
	v := &graph.Vertex{}
	l := &loader{Options: o}
	err := l.source(v, s, p)
	return v.Op, err
}
