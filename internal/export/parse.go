// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
)

// maxSpec bounds a spec in bytes; one is written by hand.
const maxSpec = 64 << 10

// ParseSpec reads an output as docker's clients write it: comma-separated
// KEY=VALUE with csv quoting; a bare path is a directory for type=local, and "-"
// alone is type=tar to the standard output. An error names the key.
func ParseSpec(text string) (Spec, error) {
	s, err := parseSpec(text)
	if err != nil {
		return Spec{}, fmt.Errorf("output %q: %w", shorten(text), err)
	}
	return s, nil
}

func parseSpec(text string) (Spec, error) {
	if len(text) > maxSpec {
		return Spec{}, fmt.Errorf("longer than %d bytes", maxSpec)
	}
	if strings.ContainsAny(text, "\r\n\x00") {
		return Spec{}, errors.New("it has more than one line")
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return Spec{}, fmt.Errorf("it is not a list of KEY=VALUE: %w", err)
	}
	if len(fields) == 1 && fields[0] == text && !strings.Contains(text, "=") {
		if text == Stdout {
			return Spec{Type: Tar, Dest: Stdout}, nil
		}
		return Spec{Type: Local, Dest: text}, nil
	}
	var s Spec
	if err := s.setType(fields); err != nil {
		return Spec{}, err
	}
	seen := map[string]bool{"type": true}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		k = strings.TrimSpace(k)
		if !ok || k == "" {
			return Spec{}, fmt.Errorf("%q is not KEY=VALUE", shorten(f))
		}
		if !strings.HasPrefix(k, annotationKey) {
			k = strings.ToLower(k)
		}
		if k == "type" {
			continue
		}
		if seen[k] {
			return Spec{}, fmt.Errorf("%s is given twice", k)
		}
		seen[k] = true
		if err := s.set(k, v); err != nil {
			return Spec{}, err
		}
	}
	return s, s.check()
}

// setType finds the type first: it decides which keys there are.
func (s *Spec) setType(fields []string) error {
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		if !strings.EqualFold(strings.TrimSpace(k), "type") {
			continue
		}
		if s.Type != "" {
			return errors.New("type is given twice")
		}
		switch t := Type(v); t {
		case Image, OCI, Docker, Tar, Local, CacheOnly:
			s.Type = t
		case "registry":
			s.Type, s.Push, s.NoStore = Image, true, true
		default:
			return keyError("type", shorten(v), "image, registry, oci, docker, tar, local or cacheonly")
		}
	}
	if s.Type == "" {
		return errors.New("type is missing: write type=image, registry, oci, docker, tar, local or cacheonly")
	}
	return nil
}

// setter puts a value into a spec.
type setter func(s *Spec, key, value string) error

// The keys of each type.
var (
	imageKeys = map[string]setter{
		"name": setNames, "compression": setCompression, "compression-level": setLevel,
		"force-compression": flag(func(s *Spec) *bool { return &s.Layers.Force }),
		"rewrite-timestamp": flag(func(s *Spec) *bool { return &s.Layers.Rewrite }),
		"oci-mediatypes":    negated(func(s *Spec) *bool { return &s.DockerTypes }),
		"oci-artifact":      optional(func(s *Spec) **bool { return &s.OCIArtifact }),
	}
	storeKeys = map[string]setter{
		"push":                 flag(func(s *Spec) *bool { return &s.Push }),
		"push-by-digest":       flag(func(s *Spec) *bool { return &s.PushByDigest }),
		"registry.insecure":    flag(func(s *Spec) *bool { return &s.Insecure }),
		"store":                negated(func(s *Spec) *bool { return &s.NoStore }),
		"name-canonical":       flag(func(s *Spec) *bool { return &s.NameCanonical }),
		"dangling-name-prefix": func(s *Spec, _, v string) error { s.DanglingPrefix = v; return nil },
	}
	destKeys    = map[string]setter{"dest": setDest}
	archiveKeys = map[string]setter{"tar": negated(func(s *Spec) *bool { return &s.Directory })}
	filesKeys   = map[string]setter{
		"platform-split": optional(func(s *Spec) **bool { return &s.PlatformSplit }),
		"src":            func(s *Spec, _, v string) error { s.Source = v; return nil },
	}
	localKeys = map[string]setter{"mode": setMode}
)

// refused are keys of other programs that are not honoured here, with the reason.
var refused = map[string]string{
	"unpack":                "images are unpacked when a step needs their files",
	"prefer-nondist-layers": "layers that may not be distributed are kept as they are",
	"compatibility-version": "there is one version of the exporter",
	"context":               "use DOCKER_HOST to choose a docker",
	"buildinfo":             "it is deprecated",
	"source-date-epoch":     "set SOURCE_DATE_EPOCH",
}

// keys gives the keys of a type.
func (t Type) keys() map[string]setter {
	sets := map[Type][]map[string]setter{
		Image: {imageKeys, storeKeys}, OCI: {imageKeys, destKeys, archiveKeys}, Docker: {imageKeys, destKeys, archiveKeys},
		Tar: {destKeys, filesKeys}, Local: {destKeys, filesKeys, localKeys}, CacheOnly: {},
	}
	out := map[string]setter{}
	for _, m := range sets[t] {
		maps.Copy(out, m)
	}
	return out
}

func (s *Spec) set(key, value string) error {
	keys := s.Type.keys()
	if set, ok := keys[key]; ok {
		return set(s, key, value)
	}
	if strings.HasPrefix(key, annotationKey) && s.IsImage() {
		a, err := ParseAnnotation(key, value)
		s.Annotations = append(s.Annotations, a)
		return err
	}
	if why, ok := refused[key]; ok {
		if value == "false" {
			return nil
		}
		return fmt.Errorf("%s=%s cannot be honoured: %s", key, shorten(value), why)
	}
	known := slices.Sorted(maps.Keys(keys))
	if s.IsImage() {
		known = append(known, "annotation.KEY")
	}
	return fmt.Errorf("unknown key %q for type=%s: there are type, %s", shorten(key), s.Type, strings.Join(known, ", "))
}

// check refuses what does not go together.
func (s *Spec) check() error {
	switch {
	case s.Type == Local && s.Dest == "":
		return errors.New("dest is missing: say which directory")
	case s.Type == Local && s.Dest == Stdout:
		return errors.New("dest=-: a directory cannot go to the standard output: use type=tar")
	case (s.Type == Tar || s.Type == OCI) && s.Dest == "":
		s.Dest = Stdout
	}
	if s.Directory && (s.Dest == "" || s.Dest == Stdout) {
		return errors.New("tar=false needs dest=DIRECTORY")
	}
	if s.Directory && s.Type == Docker {
		return errors.New("tar=false: docker reads archives only: use type=oci")
	}
	if s.PushByDigest && (!s.Push || s.DanglingPrefix != "") {
		return errors.New("push-by-digest=true needs push=true and no dangling-name-prefix")
	}
	return s.Layers.check()
}

// check compares the level with the algorithm.
func (o LayerOptions) check() error {
	limit := map[compress.Algorithm]int{compress.None: 0, compress.Gzip: 9, compress.Zstd: 22}[o.algorithm()]
	if o.Level > limit {
		if limit == 0 {
			return errors.New("compression-level makes no sense with compression=uncompressed")
		}
		return fmt.Errorf("compression-level=%d: %s has 1 to %d", o.Level, o.algorithm(), limit)
	}
	return nil
}

func flag(field func(*Spec) *bool) setter {
	return func(s *Spec, k, v string) (err error) {
		*field(s), err = parseBool(k, v)
		return err
	}
}

func negated(field func(*Spec) *bool) setter {
	return func(s *Spec, k, v string) error {
		b, err := parseBool(k, v)
		*field(s) = !b
		return err
	}
}

func optional(field func(*Spec) **bool) setter {
	return func(s *Spec, k, v string) error {
		b, err := parseBool(k, v)
		*field(s) = &b
		return err
	}
}

func parseBool(key, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, keyError(key, shorten(value), "true or false")
	}
	return b, nil
}

func setNames(s *Spec, _, v string) error {
	for n := range strings.SplitSeq(v, ",") {
		if n = strings.TrimSpace(n); n != "" {
			s.Names = append(s.Names, n)
		}
	}
	return nil
}

func setDest(s *Spec, k, v string) error {
	if v == "" || strings.ContainsRune(v, 0) {
		return keyError(k, shorten(v), "a path, or - for the standard output")
	}
	s.Dest = v
	return nil
}

func setCompression(s *Spec, k, v string) error {
	switch v {
	case "gzip":
		s.Layers.Compression = compress.Gzip
	case "zstd":
		s.Layers.Compression = compress.Zstd
	case "uncompressed":
		s.Layers.Compression = compress.None
	case "estargz":
		return errors.New("compression=estargz is not supported: use gzip or zstd")
	default:
		return keyError(k, shorten(v), "gzip, zstd or uncompressed")
	}
	return nil
}

func setLevel(s *Spec, k, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > 22 {
		return keyError(k, shorten(v), "a number from 1 to 9 for gzip, to 22 for zstd; 0 is the default")
	}
	s.Layers.Level = n
	return nil
}

func setMode(s *Spec, k, v string) error {
	if v != "copy" && v != "delete" {
		return keyError(k, shorten(v), "copy or delete")
	}
	s.Delete = v == "delete"
	return nil
}

const annotationKey = "annotation"

// ParseAnnotation reads an annotation by its key in a spec:
// annotation[-PLACE][[PLATFORM]].KEY.
func ParseAnnotation(key, value string) (Annotation, error) {
	a := Annotation{Place: OnManifest, Value: value}
	where, name, ok := strings.Cut(strings.TrimPrefix(key, annotationKey), ".")
	if open := strings.IndexByte(where, '['); open >= 0 {
		// The platform may hold a point: find its end first.
		rest := strings.TrimPrefix(key, annotationKey)
		platform, after, found := strings.Cut(rest[open+1:], "].")
		p, err := image.ParsePlatform(platform)
		if !found || err != nil {
			return a, fmt.Errorf("annotation %q: write annotation[OS/ARCH].KEY", shorten(key))
		}
		a.Platform, where, name, ok = p, rest[:open], after, true
	}
	if !ok || name == "" {
		return a, fmt.Errorf("annotation %q: write annotation.KEY=VALUE", shorten(key))
	}
	a.Key = name
	switch place := Place(strings.TrimPrefix(where, "-")); {
	case where == "":
	case place == OnManifest, place == OnIndex, place == OnManifestDescriptor, place == OnIndexDescriptor:
		a.Place = place
	default:
		return a, fmt.Errorf("annotation %q: the places are manifest, index, manifest-descriptor and index-descriptor", shorten(key))
	}
	if a.Platform != (image.Platform{}) && (a.Place == OnIndex || a.Place == OnIndexDescriptor) {
		return a, fmt.Errorf("annotation %q: an index has no platform", shorten(key))
	}
	return a, nil
}

// ParseAnnotations reads the argument of --annotation as docker's clients write it:
// [PLACE[[PLATFORM]][,PLACE…]:]KEY=VALUE.
func ParseAnnotations(text string) ([]Annotation, error) {
	k, value, ok := strings.Cut(text, "=")
	if !ok || k == "" {
		return nil, fmt.Errorf("annotation %q: write KEY=VALUE", shorten(text))
	}
	places := []string{""}
	if where, name, found := strings.Cut(k, ":"); found && startsPlace(where) {
		places, k = strings.Split(where, ","), name
	}
	var out []Annotation
	for _, place := range places {
		if place != "" && !strings.HasPrefix(place, "[") {
			place = "-" + place
		}
		a, err := ParseAnnotation(annotationKey+place+"."+k, value)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// startsPlace tells the places before a colon from a key that has one.
func startsPlace(s string) bool {
	return strings.HasPrefix(s, "manifest") || strings.HasPrefix(s, "index") || strings.HasPrefix(s, "[")
}

// shorten makes what was written short enough for an error message.
func shorten(s string) string {
	const limit = 100
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
