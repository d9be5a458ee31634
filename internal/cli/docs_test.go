// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocs does what docs/tutorial.md and the README of each example tell a reader to do,
// in a directory of its own, and compares what comes out with what is printed there.
//
// A fenced block "LANGUAGE file=NAME" is the content of a file. In a block "console" a line
// that begins with "$ " is a command, lines that begin with "> " go on with it, and the rest
// up to the next command is its output, standard error included. "…" stands for any text, and
// alone on a line for any number of lines. A command that fails must say so: `…; echo $?`.
func TestDocs(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/README.md")
	if err != nil || len(files) < 3 {
		t.Fatalf("no examples: %v, %v", files, err)
	}
	t.Parallel()
	for _, f := range append(files, "../../docs/tutorial.md") {
		t.Run(strings.Trim(strings.TrimSuffix(strings.TrimSuffix(f, ".md"), "/README"), "./"), func(t *testing.T) {
			name := filepath.Base(filepath.Dir(f))
			switch name {
			case "deb-package", "projects":
				onlyWithDebian(t)
			case "go-projects":
				if os.Getenv("STACKER_TEST_PROJECTS") == "" {
					t.Skip("compiles for minutes, in CI too: set STACKER_TEST_PROJECTS=1")
				}
			}
			dir := filepath.Join(t.TempDir(), "work", "examples", name)
			if err := os.CopyFS(dir, os.DirFS(filepath.Dir(f))); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "projects") {
				copySource(t, filepath.Join(dir, "..", ".."))
			}
			if strings.HasSuffix(f, "tutorial.md") {
				dir = filepath.Join(filepath.Dir(dir), "empty")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			follow(t, dir, string(text))
		})
	}
}

// copySource puts what the projects of the examples use of this repository where they look
// for it.
func copySource(t *testing.T, to string) {
	t.Helper()
	root := filepath.Join("..", "..")
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join(root, name), filepath.Join(to, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"cmd", "docs", "internal"} {
		if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(root, name))); err != nil {
			t.Fatal(err)
		}
	}
}

// onlyWithDebian skips what takes a minute and a mirror of Debian.
func onlyWithDebian(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") != "true" && os.Getenv("STACKER_TEST_DEBIAN") == "" {
		t.Skip("takes a minute and a mirror of Debian: set STACKER_TEST_DEBIAN=1")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		need(t, "install mmdebstrap")
	}
}

var (
	fence     = regexp.MustCompile("(?ms)^```([a-z]*)(?: file=([^\n ]+))?\n(.*?)^```$")
	changeDir = regexp.MustCompile(`^cd ([^ ;&|]+)$`)
)

// follow does what a document says, in dir.
func follow(t *testing.T, dir, text string) {
	t.Helper()
	home := filepath.Join(filepath.Dir(dir), "home")
	env := append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+filepath.Join(home, "data"),
		"PATH="+filepath.Join(os.Getenv(homeVariable), "bin")+":"+os.Getenv("PATH"))
	t.Cleanup(func() {
		cmd := exec.Command(filepath.Join(os.Getenv(homeVariable), "bin", "stacker"), "prune", "--all")
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stacker prune --all: %v\n%s", err, out)
		}
	})
	commands := 0
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		language, name, body := block[1], block[2], block[3]
		if name != "" {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(body), 0o644)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if language != "console" {
			continue
		}
		for _, c := range split(t, body) {
			commands++
			if to := changeDir.FindStringSubmatch(c.text); to != nil {
				dir = filepath.Join(dir, to[1])
				continue
			}
			cmd := exec.Command("bash", "-c", c.text)
			cmd.Dir, cmd.Env = dir, env
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("$ %s\n%s%v", c.text, out, err)
			}
			if !c.matches(string(out)) {
				t.Fatalf("$ %s\nprinted\n%s\nbut the document says\n%s", c.text, out, c.output)
			}
		}
	}
	if commands == 0 {
		t.Error("the document has no commands")
	}
}

// documented is a command and the output that the document shows.
type documented struct{ text, output string }

// split takes a block of commands and outputs apart.
func split(t *testing.T, body string) []documented {
	t.Helper()
	var list []documented
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, documented{text: strings.TrimRight(text, "\n")})
			continue
		}
		if len(list) == 0 {
			t.Fatalf("output without a command: %s", line)
		}
		last := &list[len(list)-1]
		if more, ok := strings.CutPrefix(line, "> "); ok && last.output == "" {
			last.text += "\n" + strings.TrimRight(more, "\n")
			continue
		}
		last.output += line
	}
	return list
}

// matches tells whether out is what the document shows.
func (c documented) matches(out string) bool {
	var pattern bytes.Buffer
	pattern.WriteString(`(?s)^`)
	for line := range strings.Lines(c.output) {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " \n")), "…", `[^\n]*`) + ` *\n`)
	}
	pattern.WriteString(`$`)
	return regexp.MustCompile(pattern.String()).MatchString(out)
}
