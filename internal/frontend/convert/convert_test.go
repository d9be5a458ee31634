// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"build.stacker.dev/internal/frontend/convert"
	"build.stacker.dev/internal/frontend/stackerfile"
)

var update = flag.Bool("update", false, "write what comes out to testdata")

// base is what the tests' base images say.
func base(_ context.Context, name string, _ bool) (convert.Base, error) {
	switch {
	case strings.HasPrefix(name, "example.com/tools"):
		return convert.Base{Env: []string{"PATH=/opt/bin:/bin", "LANG=C"}, User: "build", WorkingDir: "/src"}, nil
	case strings.HasPrefix(name, "example.com/trigger"):
		return convert.Base{OnBuild: []string{"RUN make"}}, nil
	}
	return convert.Base{}, errors.New("not found")
}

// TestConvert converts the Dockerfile of each archive in testdata, in a build context with
// the archive's files, and compares with its members want.yaml, subs.yaml, notes and error.
func TestConvert(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { convertOne(t, file) })
	}
}

func convertOne(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir, want := t.TempDir(), map[string]string{}
	in := convert.Input{Name: "Dockerfile", Context: dir, ContextPath: ".", Base: base}
	var kept []txtar.File
	for _, f := range archive.Files {
		switch f.Name {
		case "want.yaml", "subs.yaml", "notes", "error":
			want[f.Name] = string(f.Data)
			continue
		case "drop":
			in.Drop = strings.Fields(string(f.Data))
		case "Dockerfile":
			in.Dockerfile = f.Data
			fallthrough
		default:
			path := filepath.Join(dir, f.Name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept = append(kept, f)
	}
	got := map[string]string{}
	out, err := convert.Dockerfile(context.Background(), in)
	if err != nil {
		var e *stackerfile.Error
		if !errors.As(err, &e) {
			t.Fatalf("the error has no position: %v", err)
		}
		detail := e.Detail()
		if all := (stackerfile.Errors)(nil); errors.As(err, &all) {
			detail = all.Detail()
		}
		got["error"] = strings.ReplaceAll(detail, dir, "$CONTEXT") + "\n"
	} else {
		got["want.yaml"], got["subs.yaml"] = string(out.File), string(out.Substitutes)
		if len(out.Notes) > 0 {
			got["notes"] = strings.Join(out.Notes, "\n") + "\n"
		}
		readable(t, out.File)
	}
	if *update {
		archive.Files = kept
		for _, name := range []string{"want.yaml", "subs.yaml", "notes", "error"} {
			if got[name] != "" && (name != "subs.yaml" || got[name] != "{}\n") {
				archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
			}
		}
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want["subs.yaml"] == "" {
		want["subs.yaml"] = "{}\n"
	}
	for name, text := range got {
		if text != want[name] {
			t.Errorf("%s is\n%s\nwant\n%s", name, text, want[name])
		}
	}
	if want["error"] != got["error"] {
		t.Errorf("error is\n%s\nwant\n%s", got["error"], want["error"])
	}
}

// readable checks that the result is a build file.
func readable(t *testing.T, file []byte) {
	t.Helper()
	_, err := stackerfile.Load("stacker.yaml", stackerfile.LoadOptions{
		Builtins: map[string]string{},
		ReadFile: func(string) ([]byte, error) { return file, nil },
	})
	if err != nil {
		t.Errorf("the result is no stacker.yaml: %v\n%s", err, file)
	}
}

// FuzzConvert looks for Dockerfiles that make the converter panic, or write what is no
// build file.
func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, m := range archive.Files {
			if m.Name == "Dockerfile" {
				f.Add(m.Data)
			}
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.IndexByte(data, 0) >= 0 {
			return
		}
		_, _ = convert.Dockerfile(context.Background(), convert.Input{Name: "Dockerfile", Dockerfile: data, Context: dir, ContextPath: ".", Base: base})
	})
}
