// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package llb

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"

	"build.stacker.dev/internal/graph"
)

// definition encodes a state as a file has it.
func definition(t testing.TB, s llb.State) []byte {
	t.Helper()
	d, err := s.Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := d.ToPB().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// show writes a graph as text: one line for each vertex, inputs first.
func show(v *graph.Vertex) string {
	var out strings.Builder
	number := map[*graph.Vertex]int{}
	var visit func(v *graph.Vertex) int
	visit = func(v *graph.Vertex) int {
		if n, ok := number[v]; ok {
			return n
		}
		var in []int
		for _, i := range v.Inputs {
			in = append(in, visit(i))
		}
		op, _ := json.Marshal(v.Op)
		n := len(number)
		number[v] = n
		fmt.Fprintf(&out, "%d %s %v %s\n", n, strings.TrimPrefix(fmt.Sprintf("%T", v.Op), "graph."), in, op)
		return n
	}
	visit(v)
	return out.String()
}

func TestLoad(t *testing.T) {
	at := time.Unix(1, 0)
	base := llb.Image("docker.io/library/a:b")
	tests := []struct {
		name  string
		state llb.State
		want  []string // in the text of the graph
	}{
		{"image", base, []string{`0 Image [] {"Reference":"docker.io/library/a:b","Insecure":false,"OS":"linux","Arch":"amd64"`}},
		{"scratch", llb.Scratch(), []string{"0 Scratch"}},
		{
			"files", llb.Scratch().File(llb.Mkdir("/d", 0o750, llb.WithParents(true)).Mkfile("/d/f", 0o640, []byte("x"), llb.WithUser("u:7"), llb.WithCreatedTime(at)).
				Symlink("/d/f", "/l").Rm("/d/*", llb.WithAllowWildcard(true), llb.WithAllowNotFound(true))),
			[]string{`{"Dir":{"Path":"/d","Mode":488,"Parents":true}}`,
				`{"File":{"Path":"/d/f","Mode":416,"Data":"eA==","Owner":{"User":{"Name":"u"},"Group":{"Number":7}},"Time":1000000000}}`,
				`{"Symlink":{"Path":"/l","Target":"/d/f"}}`, `{"Remove":{"Path":"/d/*","AllowNone":true,"Wildcard":true}}`},
		},
		{
			"copy", llb.Scratch().File(llb.Copy(llb.Local("context", llb.FollowPaths([]string{"x"})), "/x", "/y/", &llb.CopyInfo{AllowWildcard: true, CreateDestPath: true})),
			[]string{`"Follow":["x"]`, `2 Change [0 1] {"Actions":[{"Copy":{"Input":1,"Src":"/x","Dest":"/y/","MakeDest":true,"Wildcard":true}}],"Clamp":null}`},
		},
		{
			"run", base.Run(llb.Args([]string{"true"}), llb.Dir("/w"), llb.AddEnv("A", "b"), llb.Network(llb.NetModeNone),
				llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("id", llb.CacheMountLocked)),
				llb.AddMount("/t", llb.Scratch(), llb.Tmpfs()),
				llb.AddMount("/b", base, llb.Readonly, llb.SourcePath("/s")),
				llb.AddSecret("/run/s", llb.SecretID("sid"), llb.SecretFileOpt(1, 2, 0o400)),
				llb.AddSSHSocket(llb.SSHID("default"))).Root(),
			[]string{`"Args":["true"]`, `"Dir":"/w"`, `{"Key":"A","Value":"b"}`, `"Network":"none"`,
				`{"Type":"cache","Target":"/c","Input":-1,"Selector":"","ID":"id","Sharing":"locked"}`,
				`{"Type":"tmpfs","Target":"/t"`, `{"Type":"bind","Target":"/b","Input":1,"Selector":"/s","ReadOnly":true}`,
				`{"Type":"secret","Target":"/run/s","Input":-1,"Selector":"","ID":"sid","UID":1,"GID":2,"Mode":256}`, `{"Type":"ssh"`},
		},
		{"merge", llb.Merge([]llb.State{base, llb.Scratch().File(llb.Mkfile("/a", 0o644, nil))}), []string{"Merge [0 "}},
		{"diff", llb.Diff(base, base.File(llb.Mkfile("/a", 0o644, nil))), []string{"Diff [0 1] {}"}},
		{"git", llb.Git("https://example.com/a.git", "main:sub", llb.KeepGitDir()), []string{`"Remote":"https://example.com/a.git","Ref":"main","Subdir":"sub"`, `"KeepGitDir":true`}},
		{"http", llb.HTTP("https://example.com/a", llb.Filename("f"), llb.Chmod(0o640)), []string{`{"URL":"https://example.com/a","Filename":"f","Checksum":"","Mode":416,"UID":0,"GID":0}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			def, err := Parse(definition(t, tt.state))
			if err != nil {
				t.Fatal(err)
			}
			v, err := Load(t.Context(), def, Options{Locals: map[string]string{"context": "/c"}})
			if err != nil {
				t.Fatal(err)
			}
			got := show(v)
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("got\n%swhich lacks\n%s", got, w)
				}
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	base := llb.Image("docker.io/library/a:b")
	tests := []struct {
		name  string
		state llb.State
		want  string
	}{
		{"local", llb.Local("nowhere"), `there is no local directory "nowhere"`},
		{"insecure", base.Run(llb.Args([]string{"true"}), llb.Security(llb.SecurityModeInsecure)).Root(), "--allow security.insecure"},
		{"output", base.Run(llb.Args([]string{"true"})).AddMount("/out", llb.Scratch()), "only the first output"},
		{"cgroup", base.Run(llb.Args([]string{"true"}), llb.WithCgroupParent("x")).Root(), "control group"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			def, err := Parse(definition(t, tt.state))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = Load(t.Context(), def, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// FuzzLoad wants no definition to do more than fail.
func FuzzLoad(f *testing.F) {
	base := llb.Image("docker.io/library/a:b")
	f.Add(definition(f, base.Run(llb.Args([]string{"true"}), llb.AddMount("/c", llb.Scratch(), llb.AsPersistentCacheDir("id", llb.CacheMountLocked))).Root()))
	f.Add(definition(f, llb.Scratch().File(llb.Copy(base, "/x", "/y"))))
	f.Add(definition(f, llb.Diff(base, llb.Merge([]llb.State{base, llb.Git("https://example.com/a", "b")}))))
	raw, err := (&pb.Definition{Def: [][]byte{{}, {0x0a, 0x00}}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		def, err := Parse(data)
		if err != nil {
			return
		}
		v, err := Load(t.Context(), def, Options{Locals: map[string]string{"context": "/c"}})
		if err == nil && v.ID() == "" {
			t.Error("a vertex without an ID")
		}
	})
}
