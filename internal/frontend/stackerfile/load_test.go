// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// tree is a file system for tests.
type tree map[string]string

func (t tree) read(path string) ([]byte, error) {
	if s, ok := t[path]; ok {
		return []byte(s), nil
	}
	return nil, fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
}

// dump prints the stages of f in a form that is stable and easy to review.
func dump(t *testing.T, f *File) string {
	t.Helper()
	var b strings.Builder
	for _, s := range f.Stages {
		shown := *s
		shown.File = nil
		value := reflect.ValueOf(shown)
		for i := range value.NumField() {
			if value.Field(i).IsZero() {
				continue
			}
			text, err := json.Marshal(value.Field(i).Interface())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s: %s\n", value.Type().Field(i).Name, text)
		}
		b.WriteByte('\n')
	}
	if len(f.SubstitutionsUsed) > 0 {
		used, err := json.Marshal(f.SubstitutionsUsed)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "used: %s\n", used)
	}
	return b.String()
}

func TestGoodFiles(t *testing.T) {
	supplied := []Substitution{
		{"WORD", "word"}, {"NESTED", "<${{LATER}}>"}, {"LATER", "later"}, {"EMPTY", ""},
		{"ODD", `$1 ${1} "it's" # {x: y}`}, {"QUOTED", `"a: b"`}, {"BACKSLASH", `a\tb`}, {"WORD", "second"},
	}
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p, err := Load("/p/f.yaml", LoadOptions{
				Substitutions: supplied,
				ReadFile:      func(string) ([]byte, error) { return os.ReadFile(file) },
			})
			if err != nil {
				t.Fatal(detail(err))
			}
			got := dump(t, p.Files[0])
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			checkLines(t, p)
		})
	}
}

// checkLines checks that each line of a script is where Lines says.
func checkLines(t *testing.T, p *Project) {
	t.Helper()
	for _, s := range p.Files[0].Stages {
		if s.Run == nil {
			continue
		}
		lines := strings.Split(strings.TrimSuffix(s.Run.Script, "\n"), "\n")
		if len(lines) != len(s.Run.Lines) {
			t.Errorf("%s: got %d positions for %d lines", s.Name, len(s.Run.Lines), len(lines))
		}
	}
}

func TestRequireHash(t *testing.T) {
	files := tree{"/f": "a:\n  from: {type: scratch}\n  imports:\n    - https://x/y\n    - file\n"}
	if _, err := Load("/f", LoadOptions{ReadFile: files.read}); err != nil {
		t.Errorf("without the option: %v", err)
	}
	_, err := Load("/f", LoadOptions{ReadFile: files.read, RequireHash: true})
	if want := "/f:4:7: Remote import needs a hash in yaml for path: https://x/y"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

const scratch = "  from: {type: scratch}\n"

func TestPrerequisites(t *testing.T) {
	needs := func(paths string) string { return "config:\n  prerequisites: [" + paths + "]\n" }
	tests := []struct {
		name  string
		files tree
		want  string // paths in order, or the error
	}{
		{"diamond", tree{
			"/p/stacker.yaml": needs("../z/s.yaml, b.yaml"), "/z/s.yaml": needs("/p/c.yaml"),
			"/p/b.yaml": needs("c.yaml"), "/p/c.yaml": "c:\n" + scratch,
		}, "/p/c.yaml /p/b.yaml /z/s.yaml /p/stacker.yaml"},
		{"two that need each other", tree{"/p/stacker.yaml": needs("b.yaml"), "/p/b.yaml": needs("stacker.yaml")},
			"/p/b.yaml:2:19: edge from /p/b.yaml to /p/stacker.yaml makes a cycle: /p/stacker.yaml -> /p/b.yaml -> /p/stacker.yaml"},
		{"itself", tree{"/p/stacker.yaml": needs("./stacker.yaml")},
			"/p/stacker.yaml:2:19: edge from /p/stacker.yaml to /p/stacker.yaml makes a cycle: /p/stacker.yaml -> /p/stacker.yaml"},
		{"missing", tree{"/p/stacker.yaml": needs("b.yaml")},
			"/p/stacker.yaml:2:19: couldn't read stacker file: open /p/b.yaml: file does not exist"},
		{"missing root", tree{}, "/p/stacker.yaml: couldn't read stacker file: open /p/stacker.yaml: file does not exist"},
		{"same name", tree{"/p/stacker.yaml": needs("b.yaml") + "x:\n" + scratch, "/p/b.yaml": "x:\n" + scratch},
			"/p/stacker.yaml:3:1: duplicate layer name: both /p/b.yaml and /p/stacker.yaml have x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := Load("/p/stacker.yaml", LoadOptions{ReadFile: test.files.read})
			var got string
			if err != nil {
				got = err.Error()
			} else {
				var paths []string
				for _, f := range p.Files {
					paths = append(paths, f.Path)
				}
				got = strings.Join(paths, " ")
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestMissingFileIsNotExist(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"), LoadOptions{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestOrder(t *testing.T) {
	built := func(name, tag string) string { return name + ":\n  from: {type: built, tag: " + tag + "}\n" }
	tests := []struct{ name, file, want string }{
		{"file order", "b:\n" + scratch + "a:\n" + scratch, "b a"},
		{"built", built("a", "b") + built("b", "c") + "c:\n" + scratch + "d:\n" + scratch, "c b a d"},
		{"import and tar", "a:\n" + scratch + "  imports: stacker://c/x\nb:\n  from: {type: tar, url: stacker://d/x}\nc:\n" + scratch + "d:\n" + scratch, "c a d b"},
		{"unknown base", built("a", "baes") + "base:\n" + scratch, "/f:2:28: couldn't find dependencies for a: base layer baes"},
		{"unknown import", "a:\n" + scratch + "  imports:\n    - stacker://nope/x\n", "/f:4:7: couldn't find dependencies for a: stacker://nope/x"},
		{"cycle", built("a", "b") + built("b", "c") + built("c", "b"), "/f:6:28: couldn't resolve some dependencies: b needs c needs b"},
		{"itself", built("a", "a"), "/f:2:28: couldn't resolve some dependencies: a needs a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := Load("/f", LoadOptions{ReadFile: tree{"/f": test.file}.read})
			if err != nil {
				t.Fatal(err)
			}
			stages, err := p.Order()
			var names []string
			for _, s := range stages {
				names = append(names, s.Name)
			}
			got := strings.Join(names, " ")
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestSplitWords(t *testing.T) {
	tests := []struct {
		text string
		want []string
		err  error
	}{
		{"", nil, nil},
		{" a  b\tc\n", []string{"a", "b", "c"}, nil},
		{`'a b' "c d" e\ f`, []string{"a b", "c d", "e f"}, nil},
		{`'' ""`, []string{"", ""}, nil},
		{`a'b'"c"d`, []string{"abcd"}, nil},
		{`'\n' "\n\"\\\$x" \n`, []string{`\n`, `\n"\$x`, "n"}, nil},
		{"a # b\nc #", []string{"a", "c"}, nil},
		{"a#b", []string{"a#b"}, nil},
		{"a\\\nb", []string{"ab"}, nil},
		{`'a`, nil, errQuote},
		{`"a`, nil, errQuote},
		{`"a\"`, nil, errQuote},
		{`a\`, nil, errEscape},
	}
	for _, test := range tests {
		got, err := splitWords(test.text)
		if !reflect.DeepEqual(got, test.want) || !errors.Is(err, test.err) {
			t.Errorf("splitWords(%q): got %q, %v, want %q, %v", test.text, got, err, test.want, test.err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	data, err := os.ReadFile("testdata/good/all-keys.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Load("/f", LoadOptions{ReadFile: tree{"/f": string(data)}.read}); err != nil {
			b.Fatal(err)
		}
	}
}
