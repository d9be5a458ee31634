// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stacker

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "build.stacker.dev/"

// imports is the import map: what each package may import of this module.
// Imports go one way, from the command line down to the helpers; results,
// errors and events flow back. A line here is a decision, not a record: think
// before adding to it.
var imports = map[string]string{
	"bench": "internal/compress",

	"cmd/stacker": "internal/boot internal/cli internal/worker",

	"internal/cli": "" +
		" internal/archive" +
		" internal/source/git internal/fileop internal/frontend/dockerfile internal/frontend/llb internal/rootfs" +
		" internal/atomicfile" +
		" internal/blob" +
		" internal/bom" +
		" internal/build internal/cache/shared" +
		" internal/cache" +
		" internal/compress" +
		" internal/export" +
		" internal/frontend/convert" +
		" internal/frontend/stackerfile" +
		" internal/graph" +
		" internal/image" +
		" internal/images" +
		" internal/layer/verity" +
		" internal/layout" +
		" internal/lockfile" +
		" internal/mount" +
		" internal/nearest" +
		" internal/progress" +
		" internal/reference" +
		" internal/registry" +
		" internal/registry/auth internal/registry/hosts" +
		" internal/shell" +
		" internal/snapshot" +
		" internal/solve" +
		" internal/source" +
		" internal/source/httpfile" +
		" internal/state" +
		" internal/template" +
		" internal/transfer" +
		" internal/userns",
	"internal/progress": "internal/solve",

	"internal/frontend/dockerfile":  "internal/frontend/llb internal/graph internal/nearest",
	"internal/frontend/llb":         "internal/fileop/action internal/graph",
	"internal/fileop":               "internal/compress internal/fileop/action internal/layer internal/layer/record internal/rootfs internal/source/localtree",
	"internal/fileop/action":        "",
	"internal/frontend/stackerfile": "internal/graph internal/nearest internal/reference internal/source",
	"internal/frontend/convert":     "internal/frontend/stackerfile",
	"internal/graph":                "internal/fileop/action",
	"internal/solve":                "internal/cache internal/graph",
	"internal/build": "internal/source/git internal/fileop internal/fileop/action internal/rootfs internal/bom internal/cache internal/compress internal/graph internal/image internal/nearest internal/par internal/snapshot internal/solve " +
		"internal/source internal/source/httpfile internal/source/localtree internal/state internal/worker",
	"internal/export": "internal/archive internal/atomicfile internal/blob internal/cache internal/compress internal/graph internal/image internal/layout " +
		"internal/reference internal/registry internal/snapshot internal/solve internal/source internal/state internal/transfer internal/worker",

	"internal/state": "internal/atomicfile internal/blob internal/cache internal/images internal/lockfile internal/snapshot/overlay " +
		"internal/snapshot internal/userns internal/worker",
	"internal/cache/shared": "internal/cache internal/image internal/layout internal/reference internal/registry internal/transfer",
	"internal/cache":        "internal/atomicfile internal/lockfile internal/snapshot",

	"internal/source":           "internal/blob internal/image internal/images internal/layout internal/reference internal/transfer",
	"internal/source/localtree": "internal/atomicfile",
	"internal/source/git":       "internal/atomicfile internal/lockfile",
	"internal/source/httpfile":  "internal/atomicfile internal/lockfile internal/source/localtree",

	"internal/worker": "internal/fileop internal/fileop/action internal/source/localtree internal/binfmt internal/bom internal/bom/scan internal/compress internal/container internal/layer internal/layer/erofs internal/layer/squashfs internal/layer/verity internal/mount internal/rootfs internal/shell " +
		"internal/snapshot internal/snapshot/btrfs internal/snapshot/fuse internal/snapshot/native internal/snapshot/overlay internal/userns",
	"internal/binfmt":                "internal/mount",
	"internal/container":             "internal/container/initproc internal/layer internal/mount internal/rootfs internal/seccomp",
	"internal/container/initproc":    "internal/mount internal/seccomp/install",
	"internal/container/supervisor":  "internal/layer/record",
	"internal/container/vroot":       "internal/container/initproc internal/container/supervisor internal/layer/record",
	"internal/boot":                  "internal/boot/role internal/container/initproc internal/container/supervisor internal/container/vroot internal/mount",
	"internal/userns":                "internal/boot/role internal/mount",
	"internal/template":              "",
	"internal/boot/role":             "",
	"internal/mount":                 "",
	"internal/seccomp":               "internal/seccomp/install",
	"internal/seccomp/install":       "",
	"internal/shell":                 "",
	"internal/snapshot":              "",
	"internal/snapshot/overlay":      "internal/snapshot",
	"internal/snapshot/btrfs":        "internal/layer internal/snapshot internal/snapshot/overlay",
	"internal/snapshot/fuse":         "internal/layer internal/snapshot internal/snapshot/overlay",
	"internal/snapshot/native":       "internal/layer internal/snapshot internal/snapshot/overlay",
	"internal/snapshot/snapshottest": "internal/layer internal/snapshot",

	"internal/bom":                   "",
	"internal/bom/scan":              "internal/bom internal/bom/rpmdb internal/layer internal/rootfs",
	"internal/bom/rpmdb":             "",
	"internal/layer":                 "internal/layer/record internal/rootfs",
	"internal/layer/record":          "",
	"internal/layer/squashfs":        "internal/compress internal/compress/lz4 internal/layer",
	"internal/layer/layertest":       "internal/layer",
	"internal/layer/erofs":           "internal/compress/lz4 internal/layer",
	"internal/layer/verity":          "",
	"internal/rootfs":                "",
	"internal/layout":                "internal/blob internal/image internal/transfer",
	"internal/blob":                  "internal/image",
	"internal/image":                 "",
	"internal/images":                "internal/atomicfile internal/blob internal/image internal/reference internal/transfer",
	"internal/archive":               "internal/blob internal/compress internal/image internal/reference internal/transfer",
	"internal/transfer":              "internal/image",
	"internal/reference":             "internal/image",
	"internal/registry":              "internal/blob internal/image internal/reference internal/registry/auth internal/registry/hosts",
	"internal/registry/hosts":        "internal/atomicfile internal/reference",
	"internal/registry/auth":         "internal/atomicfile internal/reference",
	"internal/registry/registrytest": "internal/image",

	"internal/compress":         "internal/compress/inflate",
	"internal/compress/inflate": "",
	"internal/compress/lz4":     "",
	"internal/atomicfile":       "",
	"internal/lockfile":         "",
	"internal/nearest":          "",
	"internal/par":              "",
}

// longest is the limit of the longest import chain, in packages of this module.
const longest = 8

func packages(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		name, ok := strings.CutPrefix(words[0], module)
		if !ok {
			continue // the package of this test
		}
		pkgs[name] = nil
		for _, w := range words[1:] {
			if imp, ok := strings.CutPrefix(w, module); ok {
				pkgs[name] = append(pkgs[name], imp)
			}
		}
	}
	return pkgs
}

func TestImports(t *testing.T) {
	pkgs := packages(t)
	for name, imps := range pkgs {
		allowed, ok := imports[name]
		if !ok {
			t.Errorf("package %s is not in the import map", name)
			continue
		}
		for _, imp := range imps {
			if !contains(strings.Fields(allowed), imp) {
				t.Errorf("package %s imports %s, which the import map does not allow", name, imp)
			}
		}
	}
	var depth func(name string) int
	depth = func(name string) int {
		most := 0
		for _, imp := range pkgs[name] {
			most = max(most, depth(imp))
		}
		return most + 1
	}
	if d := depth("cmd/stacker"); d > longest {
		t.Errorf("the longest import chain has %d packages, want at most %d", d, longest)
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// TestComments wants a package comment in every package, and the licence's two
// lines on top of every file.
func TestComments(t *testing.T) {
	commented := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			return err
		}
		if len(f.Comments) == 0 || !strings.Contains(f.Comments[0].Text(), "SPDX-FileCopyrightText: The stacker authors\nSPDX-License-Identifier: Apache-2.0") {
			t.Errorf("%s: the first two lines are not the SPDX lines", path)
		}
		if strings.HasSuffix(path, "_test.go") {
			return nil
		}
		dir := filepath.Dir(path)
		commented[dir] = commented[dir] || f.Doc != nil && (strings.HasPrefix(f.Doc.Text(), "Package ") || strings.HasPrefix(f.Doc.Text(), "Command "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, ok := range commented {
		if !ok {
			t.Errorf("package in %s has no comment that starts with \"Package\"", dir)
		}
	}
}
