// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/llbbuild"
	"github.com/rogpeppe/go-internal/testscript"
)

// definitions are LLB definitions by name, made by BuildKit's own client. Their
// image is the one that scripts call localhost/base:1.
func definitions() map[string]llb.State {
	base := llb.Image("localhost/base:1")
	sh := func(s llb.State, command string, o ...llb.RunOption) llb.ExecState {
		return s.Run(append([]llb.RunOption{llb.Args([]string{"/bin/sh", "-c", command}), llb.AddEnv("PATH", "/bin")}, o...)...)
	}
	one := llb.Scratch().File(llb.Mkfile("/same", 0o600, []byte("one")).Mkfile("/one", 0o644, []byte("1")))
	two := llb.Scratch().File(llb.Mkfile("/same", 0o640, []byte("two")).Mkfile("/two", 0o644, []byte("22")))
	nested, err := one.Marshal(context.Background())
	if err != nil {
		panic(err) // of a constant
	}
	def, err := nested.ToPB().MarshalVT()
	if err != nil {
		panic(err)
	}
	made := sh(base, "mkdir /d && echo x > /d/x && rm /bin/yes").Root()
	return map[string]llb.State{
		"files": llb.Scratch().File(llb.Mkdir("/a/b", 0o750, llb.WithParents(true)).Mkfile("/a/b/f", 0o640, []byte("text"), llb.WithUIDGID(3, 4)).
			Symlink("f", "/a/b/l").Mkfile("/gone", 0o644, nil).Rm("/gone")),
		"copy": llb.Scratch().File(llb.Copy(llb.Local("context"), "/dir", "/to", &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true})),
		"run": sh(base, "cat /in/one > /seen && cat /empty/* ; echo $A > /env", llb.AddEnv("A", "b"),
			llb.AddMount("/in", one, llb.Readonly), llb.AddMount("/empty", llb.Scratch(), llb.Tmpfs())).Root(),
		// Its definition is in a file of another result.
		"build": llb.Scratch().File(llb.Mkfile("/def", 0o600, def)).With(llbbuild.Build(llbbuild.WithFilename("/def"))),
		"none":  llb.Scratch().File(llb.Mkfile("/def", 0o600, nil)).With(llbbuild.Build()),
		"merge": llb.Merge([]llb.State{one, two}),
		"diff":  llb.Diff(base, made),
		"apply": llb.Merge([]llb.State{two, llb.Diff(base, made)}),
		"fails": sh(base, "echo to be seen; exit 7").Root(),
		// Refused: the changes of a mount are no image here.
		"mount": sh(base, "echo x > /out/x").AddMount("/out", llb.Scratch()),
	}
}

// cmdLLB writes a definition as buildctl takes it: llb NAME FILE.
func cmdLLB(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: llb NAME FILE")
	}
	all := definitions()
	s, ok := all[args[0]]
	if !ok {
		ts.Fatalf("there is no definition %s, but %s", args[0], strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	d, err := s.Marshal(context.Background(), llb.LinuxAmd64)
	ts.Check(err)
	raw, err := d.ToPB().MarshalVT()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), raw, 0o600))
}
