// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rows are the faults of registries that are survived, and what must happen. Tests
// name them in their comment, or in the names of their cases.
var rows = []string{
	"R01 one 500: again",
	"R02 always 500: a bounded number of requests, and the server's words",
	"R03 502, 503, 504: again",
	"R04 429 with Retry-After in seconds: not before that",
	"R05 429 with Retry-After as a date",
	"R06 Retry-After of a day: an error that tells it",
	"R07 408: again",
	"R08 connection refused: an error that says it",
	"R09 no such host",
	"R10 reset in the headers: again",
	"R11 reset in the body: on from there, by Range, or by the offset that the registry reports",
	"R12 Range ignored: from the beginning, nothing appended",
	"R13 wrong Content-Range: the same",
	"R14 short body",
	"R15 body longer than the descriptor: stopped at one byte more",
	"R16 right length, wrong bytes: bounded, nothing kept",
	"R17 no length",
	"R18 one byte a second: given up as silence",
	"R19 silence after the headers",
	"R20 wrong Docker-Content-Digest",
	"R21 Content-Type is not the media type",
	"R22 manifest and index in one",
	"R23 schema 1",
	"R24 401 in mid-pull: one new token",
	"R25 401 in mid-push: a new token, nothing sent twice",
	"R26 401 for ever: bounded",
	"R27 token service elsewhere: it gets no password",
	"R28 redirects carry no credentials",
	"R29 upload location elsewhere, relative, with a query",
	"R30 mount from another repository: 201, 202, 404",
	"R31 202 without Location",
	"R32 416: ask for the status, go on",
	"R33 HEAD 405: GET",
	"R34 HEAD 200 but GET 404",
	"R35 endless documents",
	"R36 compressed errors",
	"R37 TLS: expired, wrong name, self-signed, old",
	"R38 IPv6 and proxies",
	"R39 push killed half-way: only what is missing goes up, the tag last",
	"R40 a tag that moves: one digest",
}

var rowName = regexp.MustCompile(`\bR[0-4][0-9]\b`)

// TestRows lists, with -v, which test covers which row. Each row needs one.
func TestRows(t *testing.T) {
	covered := map[string][]string{}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name != "rows_test.go" {
			rowsOf(t, name, covered)
		}
	}
	for _, row := range rows {
		tests := covered[row[:3]]
		slices.Sort(tests)
		if len(tests) == 0 {
			t.Errorf("no test for %s", row)
		}
		t.Logf("%s\n\t%s", row, strings.Join(slices.Compact(tests), "\n\t"))
	}
}

// rowsOf collects the rows that the comments and the texts of a file's declarations
// name.
func rowsOf(t *testing.T, file string, covered map[string][]string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	add := func(text, shown string) {
		for _, id := range rowName.FindAllString(text, -1) {
			covered[id] = append(covered[id], shown)
		}
	}
	for _, d := range f.Decls {
		name, doc := "", (*ast.CommentGroup)(nil)
		switch d := d.(type) {
		case *ast.FuncDecl:
			name, doc = d.Name.Name, d.Doc
		case *ast.GenDecl:
			if v, ok := d.Specs[0].(*ast.ValueSpec); ok {
				name = v.Names[0].Name // faultRows: of TestFaultMatrix
			}
		}
		if strings.HasPrefix(name, "Test") && doc != nil && !strings.Contains(doc.Text(), " to R") { // whose cases have names
			add(doc.Text(), name)
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if text, err := strconv.Unquote(l.Value); err == nil {
					add(text, name+": "+text)
				}
			}
			return true
		})
	}
}
