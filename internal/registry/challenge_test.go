// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"maps"
	"testing"
)

func TestParseChallenges(t *testing.T) {
	tests := []struct {
		in     string
		scheme string // of the first one; empty is an error
		params map[string]string
		count  int
	}{
		{`Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"`, "bearer",
			map[string]string{"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"}, 1},
		{`BEARER Realm = "x" , Service=y`, "bearer", map[string]string{"realm": "x", "service": "y"}, 1},
		{`Basic realm="a \"b\" \\c", Bearer realm=https://x/t?a`, "basic", map[string]string{"realm": `a "b" \c`}, 2},
		{`Negotiate, Basic realm="x"`, "negotiate", map[string]string{}, 2},
		{`Basic`, "basic", map[string]string{}, 1},
		{`Basic realm=""`, "basic", map[string]string{"realm": ""}, 1},
		{`realm="x"`, "", nil, 0},
		{`Bearer realm="x`, "", nil, 0},
		{`Bearer realm="x",realm="y"`, "", nil, 0},
		{`Bearer realm=`, "", nil, 0},
		{`"Bearer"`, "", nil, 0},
		{"Bearer \x00", "", nil, 0},
	}
	for _, tt := range tests {
		got, err := parseChallenges(tt.in)
		if tt.scheme == "" {
			if err == nil {
				t.Errorf("%q: got %v, want an error", tt.in, got)
			}
			continue
		}
		if err != nil || len(got) != tt.count || got[0].scheme != tt.scheme || !maps.Equal(got[0].params, tt.params) {
			t.Errorf("%q: got %v, %v, want %s %v of %d", tt.in, got, err, tt.scheme, tt.params, tt.count)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s",scope="repository:a/b:pull"`)
	f.Add(`Basic realm="a \"b\"", Digest x=y`)
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseChallenges(s)
		if err != nil {
			return
		}
		for _, c := range list {
			if c.scheme == "" || c.params == nil {
				t.Errorf("%q: challenge %v", s, c)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(10))
	f.Add("bytes 5-/10", int64(5), int64(10))
	f.Fuzz(func(_ *testing.T, header string, offset, size int64) {
		_ = startsAt(header, offset, size) // must not panic
	})
}
