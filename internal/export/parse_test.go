// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"reflect"
	"strings"
	"testing"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
)

func TestParseSpec(t *testing.T) {
	yes, no := true, false
	arm := image.Platform{OS: "linux", Architecture: "arm64"}
	tests := []struct {
		in   string
		want Spec
	}{
		{"out", Spec{Type: Local, Dest: "out"}},
		{"-", Spec{Type: Tar, Dest: Stdout}},
		{"type=local,dest=out", Spec{Type: Local, Dest: "out"}},
		{"dest=a=b,type=local", Spec{Type: Local, Dest: "a=b"}},
		{"type=local,dest=o,mode=delete,platform-split=false,src=/usr", Spec{Type: Local, Dest: "o", Delete: true, PlatformSplit: &no, Source: "/usr"}},
		{"type=tar", Spec{Type: Tar, Dest: Stdout}},
		{"type=tar,dest=x.tar,platform-split=true", Spec{Type: Tar, Dest: "x.tar", PlatformSplit: &yes}},
		{"type=oci", Spec{Type: OCI, Dest: Stdout}},
		{"type=oci,dest=x.tar,name=a:1", Spec{Type: OCI, Dest: "x.tar", Names: []string{"a:1"}}},
		{"type=oci,dest=d,tar=false", Spec{Type: OCI, Dest: "d", Directory: true}},
		{"type=docker", Spec{Type: Docker}},
		{"type=docker,dest=-", Spec{Type: Docker, Dest: Stdout}},
		{"type=cacheonly", Spec{Type: CacheOnly}},
		{`type=image,"name=a,b:2",push=true`, Spec{Type: Image, Names: []string{"a", "b:2"}, Push: true}},
		{"type=registry,name=r.io/a", Spec{Type: Image, Names: []string{"r.io/a"}, Push: true, NoStore: true}},
		{"type=registry,name=a,store=true", Spec{Type: Image, Names: []string{"a"}, Push: true}},
		{"type=image,push=1,push-by-digest=true,registry.insecure=true,name=a",
			Spec{Type: Image, Names: []string{"a"}, Push: true, PushByDigest: true, Insecure: true}},
		{"type=image,name-canonical=true,dangling-name-prefix=p,unpack=false",
			Spec{Type: Image, NameCanonical: true, DanglingPrefix: "p"}},
		{"TYPE=oci, Compression=zstd,compression-level=19,force-compression=true,dest=x",
			Spec{Type: OCI, Dest: "x", Layers: LayerOptions{Compression: compress.Zstd, Level: 19, Force: true}}},
		{"type=oci,dest=x,compression=uncompressed,rewrite-timestamp=true,oci-mediatypes=false,oci-artifact=false",
			Spec{Type: OCI, Dest: "x", Layers: LayerOptions{Compression: compress.None, Rewrite: true}, DockerTypes: true, OCIArtifact: &no}},
		{"type=oci,dest=x,annotation.a.B=c,annotation-index.i=j,annotation[linux/arm64].p=q,annotation-manifest-descriptor[linux/arm64].r=s", Spec{
			Type: OCI, Dest: "x", Annotations: []Annotation{
				{Place: OnManifest, Key: "a.B", Value: "c"}, {Place: OnIndex, Key: "i", Value: "j"},
				{Place: OnManifest, Platform: arm, Key: "p", Value: "q"}, {Place: OnManifestDescriptor, Platform: arm, Key: "r", Value: "s"},
			},
		}},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.in)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("ParseSpec(%q) = %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestParseSpecRefuses(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "KEY=VALUE"},
		{"dest=x", "type is missing"},
		{"type=", "image, registry"},
		{"type=x", "image, registry"},
		{"type=oci,type=tar", "type is given twice"},
		{"type=oci,dest=a,dest=b", "dest is given twice"},
		{"type=oci,dest", `"dest" is not KEY=VALUE`},
		{"type=oci,dest=", "dest=: it is a path"},
		{"type=oci,=x", "not KEY=VALUE"},
		{"type=oci,dset=x", `unknown key "dset" for type=oci: there are type, compression,`},
		{"type=local", "dest is missing"},
		{"type=local,dest=-", "use type=tar"},
		{"type=local,dest=x,mode=move", "copy or delete"},
		{"type=local,dest=x,name=y", `unknown key "name"`},
		{"type=tar,annotation.a=b", `unknown key "annotation.a"`},
		{"type=cacheonly,dest=x", `unknown key "dest"`},
		{"type=image,dest=x", `unknown key "dest"`},
		{"type=image,push=maybe", "push=maybe: it is true or false"},
		{"type=image,push-by-digest=true", "needs push=true"},
		{"type=image,unpack=true", "unpack=true cannot be honoured"},
		{"type=image,compression=lzma", "gzip, zstd or uncompressed"},
		{"type=image,compression=estargz", "estargz is not supported"},
		{"type=image,compression-level=x", "a number"},
		{"type=image,compression-level=-1", "a number"},
		{"type=image,compression=gzip,compression-level=10", "gzip has 1 to 9"},
		{"type=image,compression=uncompressed,compression-level=1", "makes no sense"},
		{"type=oci,tar=false", "needs dest=DIRECTORY"},
		{"type=docker,dest=x,tar=false", "docker reads archives only"},
		{"type=oci,annotation=x", "annotation.KEY=VALUE"},
		{"type=oci,annotation.=x", "annotation.KEY=VALUE"},
		{"type=oci,annotation-layer.a=x", "the places are"},
		{"type=oci,annotation[a b].x=y", "OS/ARCH"},
		{"type=oci,annotation-index[linux/amd64].x=y", "no platform"},
		{`type=oci,"dest=x`, "not a list"},
		{"type=oci,dest=x\ntype=tar", "more than one line"},
		{strings.Repeat("x", maxSpec+1), "longer than"},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseSpec(%.60q) = %+v, %v, want an error with %q", tt.in, got, err, tt.want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"out", "-", "type=oci,dest=x", `type=image,"name=a,b"`, "type=oci,annotation[linux/arm64].k=v"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseSpec(in)
		if err != nil {
			return
		}
		if s.Type == "" || s.Type == Local && s.Dest == "" {
			t.Errorf("ParseSpec(%q) = %+v", in, s)
		}
		for _, a := range s.Annotations {
			if a.Key == "" {
				t.Errorf("ParseSpec(%q) has an annotation without a key", in)
			}
		}
	})
}
