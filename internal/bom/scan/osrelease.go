// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"strings"

	"build.stacker.dev/internal/bom"
)

// osRelease reads os-release(5).
func (s *scanner) osRelease() error {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		data, ok, err := s.optional(name)
		if err != nil {
			return err
		}
		if ok {
			s.out.OS = parseOSRelease(string(data))
			return nil
		}
	}
	return nil
}

// parseOSRelease reads lines KEY=value, the value quoted as in a shell or not.
func parseOSRelease(text string) bom.OS {
	var os bom.OS
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		switch key {
		case "ID":
			os.ID = printable(value)
		case "VERSION_ID":
			os.Version = printable(value)
		case "PRETTY_NAME":
			os.Name = printable(value)
		}
	}
	return os
}
