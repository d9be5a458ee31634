// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
)

// memory is an Output.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	m.b = m.b[:size]
	return nil
}

func seq(list ...*layer.Entry) iter.Seq2[*layer.Entry, error] {
	return func(yield func(*layer.Entry, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func file(name string, content []byte) *layer.Entry {
	return &layer.Entry{Name: name, Mode: unix.S_IFREG | 0o644, Size: int64(len(content)), Content: bytes.NewReader(content)}
}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

func image(tb testing.TB, o Options, list ...*layer.Entry) []byte {
	tb.Helper()
	var m memory
	if _, err := Write(context.Background(), &m, seq(list...), o); err != nil {
		tb.Fatal(err)
	}
	return m.b
}

// The number of workers and the time must not be seen.
func TestReproducible(t *testing.T) {
	make := func(workers int) []byte {
		var list []*layer.Entry
		for i := range 50 {
			b := noise(i*20_000, byte(i%40))
			copy(b[len(b)/2:], bytes.Repeat([]byte("text "), len(b)/10))
			e := file(fmt.Sprintf("f%02d", i), b)
			e.Xattrs = []layer.Xattr{{Name: "user.x", Value: fmt.Sprint(i % 3)}}
			list = append(list, e)
		}
		return image(t, Options{Workers: workers, ModTime: time.Unix(1_700_000_000, 0)}, list...)
	}
	one := make(1)
	for _, n := range []int{2, 7} {
		if !bytes.Equal(make(n), one) {
			t.Errorf("%d workers give another image than one", n)
		}
	}
	if got := le.Uint32(one[8:]); got != 1_700_000_000 {
		t.Errorf("time of the file system is %d", got)
	}
}

// Equal contents are stored once, whether blocks, ends or both are equal, and
// zeros not at all.
func TestSameContent(t *testing.T) {
	big, small := noise(1<<20+77, 1), noise(2000, 2)
	once := image(t, Options{}, file("a", big), file("b", small))
	list := []*layer.Entry{file("a", big), file("b", small)}
	for i := range 10 {
		list = append(list, file(fmt.Sprintf("c%d", i), big), file(fmt.Sprintf("d%d", i), small))
	}
	slices.SortFunc(list, func(a, b *layer.Entry) int { return strings.Compare(a.Name, b.Name) })
	list = append(list, file("e", make([]byte, 50<<20)))
	again := image(t, Options{}, list...)
	if more := len(again) - len(once); more > 8192 {
		t.Errorf("ten copies need %d bytes more", more)
	}
	got := map[string][]byte{}
	img, err := Open(bytes.NewReader(again), int64(len(again)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range img.Entries(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Content != nil {
			if got[e.Name], err = io.ReadAll(e.Content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(got["c9"], big) || !bytes.Equal(got["d9"], small) || !bytes.Equal(got["e"], make([]byte, 50<<20)) {
		t.Error("a copy reads as something else")
	}
}

func TestDroppedXattrs(t *testing.T) {
	e := file("f", nil)
	e.Xattrs = []layer.Xattr{{Name: "security.capability", Value: "x"}, {Name: "system.posix_acl_access", Value: "y"}, {Name: "trusted.t"}, {Name: "user.u", Value: "z"}}
	var m memory
	res, err := Write(context.Background(), &m, seq(e), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.DroppedXattrs != 1 || res.Entries != 1 {
		t.Errorf("result %+v, want 1 entry and 1 dropped attribute", res)
	}
}

func TestWriteErrors(t *testing.T) {
	bad := file("x", []byte("12345"))
	bad.Size = 6
	long := file(strings.Repeat("n", 256), nil)
	device := &layer.Entry{Name: "d", Mode: unix.S_IFCHR, Major: 1 << 12}
	tests := []struct {
		name string
		list []*layer.Entry
		o    Options
	}{
		{"short content", []*layer.Entry{bad}, Options{}},
		{"long name", []*layer.Entry{long}, Options{}},
		{"device number", []*layer.Entry{device}, Options{}},
		{"order", []*layer.Entry{file("b", nil), file("a", nil)}, Options{}},
		{"no directory", []*layer.Entry{file("a/b", nil)}, Options{}},
		{"link to nothing", []*layer.Entry{{Name: "a", HardLink: "b"}}, Options{}},
		{"link to itself", []*layer.Entry{{Name: "a", HardLink: "a"}}, Options{}},
		{"link to a directory", []*layer.Entry{{Name: "a", Mode: unix.S_IFDIR}, {Name: "b", HardLink: "a"}}, Options{}},
		{"link below a file", []*layer.Entry{file("a", nil), {Name: "b", HardLink: "a/c"}}, Options{}},
		{"block size", nil, Options{BlockSize: 5000}},
		{"small block size", nil, Options{BlockSize: 2048}},
		{"compression", nil, Options{Compression: XZ}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Write(context.Background(), &memory{}, seq(tt.list...), tt.o); err == nil {
				t.Error("no error")
			}
		})
	}
}

// fullOutput fails after some bytes.
type fullOutput struct{ memory }

func (f *fullOutput) WriteAt(p []byte, off int64) (int, error) {
	if off > 500_000 {
		return 0, unix.ENOSPC
	}
	return f.memory.WriteAt(p, off)
}

func TestOutputFails(t *testing.T) {
	var list []*layer.Entry
	for i := range 100 {
		list = append(list, file(fmt.Sprintf("f%02d", i), noise(300_000, byte(i))))
	}
	if _, err := Write(context.Background(), &fullOutput{}, seq(list...), Options{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want the error of the output", err)
	}
}

func TestWriteCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Write(ctx, &memory{}, seq(file("a", nil)), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestEmptyImage(t *testing.T) {
	archive, err := unpack(image(t, Options{}))
	if err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(bytes.NewReader(archive)).Next()
	if err != nil || h.Name != "./" || h.Mode != 0o755 {
		t.Errorf("first entry %+v, %v", h, err)
	}
}
