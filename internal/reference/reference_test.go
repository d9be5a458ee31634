// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"strings"
	"testing"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	tests := []struct{ in, full, familiar string }{
		{"debian", "docker.io/library/debian:latest", "debian"},
		{"debian:12", "docker.io/library/debian:12", "debian:12"},
		{"docker.io/debian", "docker.io/library/debian:latest", "debian"},
		{"index.docker.io/debian", "docker.io/library/debian:latest", "debian"},
		{"library/debian", "docker.io/library/debian:latest", "debian"},
		{"u/x", "docker.io/u/x:latest", "u/x"},
		{"u/x/y", "docker.io/u/x/y:latest", "u/x/y"},
		{"library/x/y", "docker.io/library/x/y:latest", "library/x/y"},
		{"localhost/x", "localhost/x:latest", "localhost/x"},
		{"localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x"},
		{"Foo/x", "Foo/x:latest", "Foo/x"},
		{"ghcr.io/o/r:v1", "ghcr.io/o/r:v1", "ghcr.io/o/r:v1"},
		{"127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a"},
		{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"},
		{"[fe80::1]/a:t", "[fe80::1]/a:t", "[fe80::1]/a:t"},
		{"a@sha256:" + hex64, "docker.io/library/a@sha256:" + hex64, "a@sha256:" + hex64},
		{"r.io/a:t@sha256:" + hex64, "r.io/a:t@sha256:" + hex64, "r.io/a:t@sha256:" + hex64},
		{"a__b/c---d/e.f_g", "docker.io/a__b/c---d/e.f_g:latest", "a__b/c---d/e.f_g"},
		{"docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c"},
		{"x:A_b.C-9", "docker.io/library/x:A_b.C-9", "x:A_b.C-9"},
	}
	for _, tt := range tests {
		r, err := Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if got := r.String(); got != tt.full {
			t.Errorf("Parse(%q) = %q, want %q", tt.in, got, tt.full)
		}
		if got := r.Familiar(); got != tt.familiar {
			t.Errorf("Parse(%q).Familiar() = %q, want %q", tt.in, got, tt.familiar)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "empty"},
		{"https://docker.io/a", "scheme"},
		{"docker://a", "scheme"},
		{hex64, "hexadecimal part"},
		{"Debian", "lower case"},
		{"a//b", "malformed"},
		{"/a", "malformed"},
		{"a/", "malformed"},
		{"a/../b", "malformed"},
		{"a/..", "malformed"},
		{".", "malformed"},
		{"r.io/", "repository is missing"},
		{"docker.io/", "repository is missing"},
		{"a..b/c", "not a host"},
		{"x/a..b", "malformed"},
		{"x/a___b", "malformed"},
		{"x/-a", "malformed"},
		{"x/a-", "malformed"},
		{"a:", "tag"},
		{"a:-x", "tag"},
		{"a:b c", "tag"},
		{"a:" + strings.Repeat("x", 129), "tag"},
		{"a b", "malformed"},
		{"a\nb", "malformed"},
		{"a@sha256:" + hex64[:63], "64 hexadecimal"},
		{"a@sha256:" + strings.ToUpper(hex64), "lower case"},
		{"a@sha256:../../x", "hexadecimal"},
		{"a@sha512:" + hex64 + hex64, "only sha256"},
		{"a@" + hex64, "only sha256"},
		{"r.io:0/a", "not a host"},
		{"r.io:65536/a", "not a host"},
		{"r.io:x/a", "not a host"},
		{"-r.io/a", "not a host"},
		{"u@r.io/a", "only sha256"},
		{"[::1/a", "not a host"},
		{"r.io/" + strings.Repeat("a/", 130) + "a", "255"},
	}
	for _, tt := range tests {
		r, err := Parse(tt.in)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", tt.in, r)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q): %v, want it to say %q", tt.in, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a", "r.io:5000/a/b:t@sha256:" + hex64, "[::1]/x", "localhost/a", "Foo/a", "a.b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("Parse(%q) = %+v; Parse of its String %q = %+v, %v", s, r, r.String(), again, err)
		}
		if again, err := Parse(r.Familiar()); err != nil || again != r {
			t.Errorf("Parse(%q) = %+v; Parse of its Familiar %q = %+v, %v", s, r, r.Familiar(), again, err)
		}
		if strings.ContainsAny(r.Repository+r.Tag, " %?#\\\x00\n") || strings.Contains(r.Repository, "..") {
			t.Errorf("Parse(%q) = %+v is not safe in a URL", s, r)
		}
	})
}
