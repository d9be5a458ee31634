// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// write makes files in a new directory.
func write(t *testing.T, files tree) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOnlyRegularFiles(t *testing.T) {
	dir := write(t, tree{"big.yaml": strings.Repeat("#", MaxFileSize+1)})
	fifo := filepath.Join(dir, "fifo.yaml")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{fifo, "not a regular file"},
		{link, "not a regular file"},
		{dir, "not a regular file"},
		{filepath.Join(dir, "big.yaml"), "larger than 10 MB"},
	}
	for _, test := range tests {
		_, err := Load(test.path, LoadOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.path, err, test.want)
		}
		_, err = Load("x", LoadOptions{SubstituteFile: test.path})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("substitute file %s: got %v, want %s", test.path, err, test.want)
		}
	}
}

func TestLinkIsNotQuoted(t *testing.T) {
	dir := write(t, tree{"secret": "password: CANARY\n"})
	link := filepath.Join(dir, "stacker.yaml")
	if err := os.Symlink("secret", link); err != nil {
		t.Fatal(err)
	}
	_, err := Load(link, LoadOptions{})
	if err == nil {
		t.Fatal("got no error")
	}
	if got := detail(err) + Quote(link, 1, 1); strings.Contains(got, "CANARY") {
		t.Errorf("the message has the content of the link's target: %s", got)
	}
}

func TestLinkedDirectoryLoop(t *testing.T) {
	dir := write(t, tree{"stacker.yaml": "config: {prerequisites: [loop/stacker.yaml]}\n"})
	if err := os.Symlink(".", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(filepath.Join(dir, "stacker.yaml"), LoadOptions{})
	if err == nil || !strings.Contains(err.Error(), "makes a cycle") {
		t.Errorf("got %v, want a cycle", err)
	}
}

func TestQuote(t *testing.T) {
	dir := write(t, tree{"f": "one\n\ttwo\n"})
	want := "  2 | \ttwo\n    | \t^\n"
	if got := Quote(filepath.Join(dir, "f"), 2, 2); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, line := range []int{-1, 0, 9} {
		if got := Quote(filepath.Join(dir, "f"), line, 1); got != "" {
			t.Errorf("line %d: got %q, want nothing", line, got)
		}
	}
}

func TestSubstituteFile(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"scalars", "A: 0755\nB: true\nC: ~\nD: word\n", "0755|true||own"},
		{"list", "A: 1\nB: [x]\n", "subs:2:4: the value of B must be a text, not a list"},
		{"not a map", "- x\n", "subs:1:1: a substitute file must be a map, not a list"},
		{"broken", "A: 1\n B: 2\n", "subs:2:2: couldn't parse stacker file: mapping values are not allowed in this context"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(write(t, tree{
				"subs": test.file,
				"f":    "a:\n" + scratch + "  labels: {x: '${{A}}|${{B}}|${{C}}|${{D}}'}\n",
			}))
			p, err := Load("f", LoadOptions{SubstituteFile: "subs", Substitutions: []Substitution{{"D", "own"}}})
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = p.Stage("a").Labels[0].Value
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestSubstitute(t *testing.T) {
	refused := "the value of K changes the structure of the file"
	tests := []struct {
		name, line, value, want string // want: the label, or the error
	}{
		{"word", "${{K}}", "v", "v"},
		{"inside", "a${{K}}b", "v", "avb"},
		{"default not used", "${{K:d}}", "v", "v"},
		{"number", "${{K}}", "0755", "0755"},
		{"empty", "a ${{K}} b", "", "a  b"},
		{"dollars", "${{K}}", "$1$$x", "$1$$x"},
		{"quoted value", "${{K}}", `"a: b"`, "a: b"},
		{"single quoted value", "${{K}}", `'a # b'`, "a # b"},
		{"url", "${{K}}", "docker://h:5000/r@sha256:ab#z", "docker://h:5000/r@sha256:ab#z"},
		{"comment in quotes", "'${{K}}'", "a # b", "a # b"},
		{"apostrophe in double quotes", `"${{K}}"`, "it's", "it's"},
		{"escape in double quotes", `"${{K}}"`, `a\x41`, "aA"},
		{"comment", "${{K}}", "a # b", refused},
		{"whole comment", "${{K}}", "# b", refused},
		{"comment after quotes", "${{K}}", `"a" # "`, refused},
		{"map", "${{K}}", "a: b", refused},
		{"flow list", "${{K}}", "[a, b]", refused},
		{"flow end", "${{K}}", "a, y: z", refused},
		{"list item", "${{K}}", "- a", refused},
		{"alias", "${{K}}", "*a", refused},
		{"anchor", "${{K}}", "&a b", refused},
		{"tag", "${{K}}", "!!binary aGk=", refused},
		{"block", "${{K}}", "|", refused},
		{"quote ends", "'${{K}}'", "a', y: 'z", refused},
		{"apostrophe", "'${{K}}'", "it's", refused},
		{"double quote ends", `"${{K}}"`, `a", y: "z`, refused},
		{"double quote and comment", `"${{K}}"`, `a" } #`, refused},
		{"line break", "${{K}}", "a\nb", "the value of K contains a line break or a control character"},
		{"carriage return", "'${{K}}'", "a\rb", "the value of K contains a line break or a control character"},
		{"line separator", "'${{K}}'", "a\u2028b", "the value of K contains a line break or a control character"},
		{"escape character", "'${{K}}'", "a\x1bb", "the value of K contains a line break or a control character"},
		{"missing in value", "${{K}}", "${{NONE}}", "no value for substitution NONE, which the value of K needs"},
		{"default in value", "${{K}}", "${{NONE:x}}", "x"},
		{"itself in value", "${{K}}", "${{K}}", "no value for substitution K, which the value of K needs"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := tree{"/f": "a:\n" + scratch + "  labels: {x: " + test.line + " }\n"}
			p, err := Load("/f", LoadOptions{ReadFile: files.read, Substitutions: []Substitution{{"K", test.value}}})
			if err != nil {
				if !strings.HasSuffix(err.Error(), test.want) {
					t.Errorf("got %v, want %s", err, test.want)
				}
				return
			}
			if got := p.Stage("a").Labels; len(got) != 1 || got[0].Value != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}

func TestBuiltinsAndMissing(t *testing.T) {
	files := tree{"/f": "a:\n" + scratch + "  labels: {x: '${{STACKER_OCI_DIR}} ${{NONE}}'}\n"}
	o := LoadOptions{ReadFile: files.read, AllowMissing: true, Builtins: map[string]string{"STACKER_OCI_DIR": "/oci"}}
	p, err := Load("/f", o)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Stage("a").Labels[0].Value, "/oci dummy"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestValuesDoNotGrowForEver(t *testing.T) {
	var subs []Substitution
	for _, c := range "ABCDEFGHIJKL" {
		next := "${{" + string(c+1) + "}}"
		subs = append(subs, Substitution{string(c), strings.Repeat(next, 10)})
	}
	subs = append(subs, Substitution{"M", "0123456789"})
	_, err := Load("/f", LoadOptions{ReadFile: tree{"/f": ""}.read, Substitutions: subs})
	if err == nil || !strings.Contains(err.Error(), "is too large") {
		t.Errorf("got %v, want an error", err)
	}
}

// TestPositions checks that places after a placeholder are those as written.
func TestPositions(t *testing.T) {
	files := tree{"/f": "a:\n" + scratch + "  ${{K}}: 1\n  labels: {${{K}}: ${{K}}, ü: [x]}\n"}
	_, err := Load("/f", LoadOptions{ReadFile: files.read, Substitutions: []Substitution{{"K", "a-long-value-ü"}}})
	want := "/f:3:3: stackerfile: unknown directive a-long-value-ü\n/f:4:31: the value of ü must be a text, not a list"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestHostileSizes(t *testing.T) {
	tests := []struct{ name, text string }{
		{"long line", "a: [" + strings.Repeat("x, ", 200_000) + "]"},
		{"many pieces", "a: [" + strings.Repeat("x,", 5_000_000) + "]"},
		{"many unknown keys", "a:\n" + scratch + strings.Repeat("  ? x\n", 50_000)},
		{"many anchors", func() string {
			var b strings.Builder
			for range 10_000 {
				b.WriteString("- &a x\n")
			}
			return b.String()
		}()},
		{"nested alias text", "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a, ", 1000) + "]\n"},
		{"deep", strings.Repeat("[", 9_000)},
		{"deep maps", strings.Repeat("{a: ", 9_000)},
		{"quotes", "a: " + strings.Repeat(`"`, 200_001)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Load("/f", LoadOptions{ReadFile: tree{"/f": test.text}.read}); err == nil {
				t.Error("got no error")
			}
		})
	}
}
