// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	files, err := filepath.Glob("testdata/fmt/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Format(file, data)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		golden := strings.TrimSuffix(file, ".yaml") + ".txt"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got:\n%swant:\n%s", file, got, want)
		}
		checkStable(t, file, got)
	}
}

func checkStable(t *testing.T, name string, formatted []byte) {
	t.Helper()
	again, err := Format(name, formatted)
	if err != nil || !bytes.Equal(again, formatted) {
		t.Errorf("%s: formatted again: %v\n%s\nformatted once:\n%s", name, err, again, formatted)
	}
}

// TestFormatAll formats the files of all tests and examples, also with other line
// ends.
func TestFormatAll(t *testing.T) {
	accepted(t, func(t *testing.T, name string, data []byte) {
		got, err := Format(name, data)
		if errors.Is(err, ErrFormat) && strings.Contains(name, "strange.yaml") {
			return // explicit keys
		}
		if err != nil {
			t.Errorf("%v\n%s", err, data)
			return
		}
		checkStable(t, name, got)
		if strings.Contains(string(data), "\r") {
			return
		}
		other, err := Format(name, bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")))
		if err != nil || !bytes.Equal(bytes.ReplaceAll(other, []byte("\r\n"), []byte("\n")), got) {
			t.Errorf("%s: with CRLF: %v\n%s", name, err, other)
		}
	})
}

func TestFormatRefuses(t *testing.T) {
	for _, text := range []string{"a: [", "a:\n  b: 1\n  b: 2\n", "\xff"} {
		var list Errors
		if _, err := Format("f", []byte(text)); !errors.As(err, &list) {
			t.Errorf("Format(%q): got %v, want an error with a place", text, err)
		}
	}
	if _, err := Format("f", []byte("a:\n  ? from\n  : type: scratch\n")); !errors.Is(err, ErrFormat) {
		t.Errorf("an explicit key: got %v, want %v", err, ErrFormat)
	}
}

// FuzzFormat checks that formatting never panics, changes no meaning and is the
// same the second time.
func FuzzFormat(f *testing.F) {
	for _, pattern := range []string{"testdata/fmt/*.yaml", "testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Format("f", []byte(text))
		if err != nil {
			return
		}
		o := LoadOptions{AllowMissing: true, ReadFile: tree{"/p/f": text}.read}
		_, before := Load("/p/f", o)
		o.ReadFile = tree{"/p/f": string(got)}.read
		_, after := Load("/p/f", o)
		if (before == nil) != (after == nil) {
			t.Errorf("before: %v\nafter: %v\n%s", before, after, got)
		}
		again, err := Format("f", got)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("formatted again: %v\n%s", err, got)
		}
		if err == nil && !bytes.Equal(got, again) {
			t.Errorf("once:\n%s\ntwice:\n%s", got, again)
		}
	})
}

// TestFormatDocs wants the documentation to tell the order of keys.
func TestFormatDocs(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/stackerfile.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "The order: `from " + strings.Join(names(stageFields)[1:], " ") + "`."
	if !strings.Contains(strings.Join(strings.Fields(string(doc)), " "), want) {
		t.Errorf("docs/stackerfile.md does not say %q", want)
	}
}
