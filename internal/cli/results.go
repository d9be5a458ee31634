// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/export"
)

// metadata is what --metadata-file tells about one image, with the keys of
// docker's clients. The digest is that of the manifest or index; that of the
// config is missing where there are several platforms.
func metadata(o export.Outcome) map[string]any {
	m := map[string]any{"buildx.build.ref": "stacker/stacker/" + strings.ToLower(rand.Text())[:25]}
	if o.Image.Digest == "" {
		return m
	}
	m["containerimage.digest"] = o.Image.Digest
	m["containerimage.descriptor"] = ocispec.Descriptor{
		MediaType: o.Image.MediaType, Digest: o.Image.Digest, Size: o.Image.Size, Platform: o.Image.Platform, Annotations: o.Image.Annotations,
	}
	if o.Config != "" {
		m["containerimage.config.digest"] = o.Config
	}
	if len(o.Names) > 0 {
		m["image.name"] = strings.Join(o.Names, ",")
	}
	return m
}

// imageID is what docker's clients call the id of an image.
func imageID(o export.Outcome) string {
	if o.Config != "" {
		return string(o.Config)
	}
	return string(o.Image.Digest)
}

// writeResults writes --metadata-file and --iidfile. Of several targets the file
// has one object for each, by its name, as docker buildx bake writes it.
func (s *outputSet) writeResults() error {
	slices.SortFunc(s.results, func(a, b result) int { return strings.Compare(a.target, b.target) })
	if path := s.options.metadataFile; path != "" {
		var doc any
		if len(s.results) == 1 {
			doc = metadata(s.results[0].outcome)
		} else {
			all := map[string]any{}
			for _, r := range s.results {
				all[r.target] = metadata(r.outcome)
			}
			doc = all
		}
		data, err := json.MarshalIndent(doc, "", "  ")
		if err == nil {
			err = writeUserFile(path, append(data, '\n'))
		}
		if err != nil {
			return fmt.Errorf("--metadata-file: %w", err)
		}
	}
	if path := s.options.iidFile; path != "" {
		if len(s.results) != 1 {
			return errors.New("--iidfile: the build makes several images: choose one with --target, or use --metadata-file")
		}
		id := imageID(s.results[0].outcome)
		if id == "" {
			return errors.New("--iidfile: no output makes an image")
		}
		if err := writeUserFile(path, []byte(id)); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	return nil
}

// writeUserFile writes where the user says, also through a link or into a pipe.
func writeUserFile(path string, data []byte) error {
	return os.WriteFile(path, data, 0o644) //nolint:gosec // the user's umask decides
}
