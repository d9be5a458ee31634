// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/layertest"
	"build.stacker.dev/internal/layer/verity"
	"golang.org/x/sys/unix"
)

// epoch is the time of some files and of images.
var epoch = time.Unix(1700000000, 0)

var compressions = map[string]Compression{"none": None, "lz4hc": LZ4HC}

// TestTree makes an image of a tree and compares what all readers see in it with
// the tree.
func TestTree(t *testing.T) {
	tree := makeTree(t)
	want := layertest.Archive(t, tree)
	wantList := list(t, layer.FromArchive(bytes.NewReader(want)))
	for name, c := range compressions {
		t.Run(name, func(t *testing.T) {
			image, res := writeImage(t, layer.FromArchive(bytes.NewReader(want)), Options{Compression: c, Time: epoch.Unix()})
			t.Logf("archive %d bytes, image %d bytes", len(want), res.Size)
			if res.DroppedXattrs != 0 {
				t.Errorf("%d attributes dropped", res.DroppedXattrs)
			}
			t.Run("reader", func(t *testing.T) {
				m := readImage(t, image)
				sameLines(t, list(t, m.Entries(context.Background())), wantList)
				var back bytes.Buffer
				if err := layer.ToArchive(context.Background(), &back, m.Entries(context.Background())); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(back.Bytes(), want) {
					t.Error("the archive of the image is not that of the tree")
				}
			})
			t.Run("kernel", func(t *testing.T) {
				got := layertest.Archive(t, layertest.Mount(t, image, "erofs"))
				sameLines(t, list(t, layer.FromArchive(bytes.NewReader(got))), wantList)
			})
			t.Run("fsck", func(t *testing.T) {
				layertest.Run(t, "fsck.erofs", image)
				out := filepath.Join(t.TempDir(), "out")
				layertest.Run(t, "fsck.erofs", "--extract="+out, "--preserve", image)
				got := layertest.Archive(t, out)
				// The tool extracts no attributes, copies files with several names, and
				// sets owners after modes.
				sameLines(t, plainer(list(t, layer.FromArchive(bytes.NewReader(got)))), plainer(wantList))
			})
			t.Run("dump", func(t *testing.T) {
				out := layertest.Run(t, "dump.erofs", image)
				if !strings.Contains(out, "Filesystem created:") || !strings.Contains(out, "2023") {
					t.Errorf("dump.erofs:\n%s", out)
				}
			})
		})
	}
}

// plainer takes away what fsck.erofs does not extract.
func plainer(list string) string {
	var b strings.Builder
	for line := range strings.Lines(list) {
		line = strings.TrimSuffix(line, "\n")
		line = strings.Replace(line, " 104755 ", " 100755 ", 1)
		if name, _, _ := strings.Cut(line[1:], `"`); strings.HasSuffix(name, "hard") || name == "null2" {
			continue
		}
		for _, prefix := range []string{" user.", " security."} {
			line, _, _ = strings.Cut(line, prefix)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// TestMkfs reads images of mkfs.erofs.
func TestMkfs(t *testing.T) {
	tree := makeTree(t)
	// The tool fails for names like these, and takes minutes for many zeros.
	unwanted := []string{"names/new\nline", "names/" + strings.Repeat("n", 255), "content/zeros"}
	for _, n := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1} {
		unwanted = append(unwanted, fmt.Sprintf("content/zeros%d", n))
	}
	for _, name := range unwanted {
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(tree, "names"), epoch, epoch); err != nil {
		t.Fatal(err)
	}
	want := list(t, layer.FromArchive(bytes.NewReader(layertest.Archive(t, tree))))
	for _, args := range []string{
		"", "-zlz4", "-zlz4 -C65536", "-zlz4 -C1048576", "-zlz4 -Elegacy-compress", "-zlz4 -Enoinline_data", "-zlz4 -Eztailpacking",
		"-zlz4 -C16384 -Eztailpacking", "-Eforce-inode-extended", "-Enoinline_data", "--chunksize=4096", "--chunksize=65536", "--chunksize=4096 -Eforce-chunk-indexes",
		"-zlz4 --max-extent-bytes=65536", "-x1", "-Enosbcrc",
	} {
		t.Run(args, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			layertest.Run(t, "mkfs.erofs", append(append([]string{"--quiet"}, strings.Fields(args)...), image, tree)...)
			sameLines(t, list(t, readImage(t, image).Entries(context.Background())), want)
		})
	}
}

// TestMkfsHC reads what the slow compressor of mkfs.erofs makes.
func TestMkfsHC(t *testing.T) {
	tree := t.TempDir()
	for name, b := range map[string][]byte{"text": text(200_000), "mixed": append(text(30_000), random(30_000)...), "program": program(t)[:300_000]} {
		if err := os.WriteFile(filepath.Join(tree, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := list(t, layer.FromArchive(bytes.NewReader(layertest.Archive(t, tree))))
	for _, args := range []string{"-zlz4hc", "-zlz4hc,12 -C16384 -Eztailpacking"} {
		image := filepath.Join(t.TempDir(), "image")
		layertest.Run(t, "mkfs.erofs", append(append([]string{"--quiet"}, strings.Fields(args)...), image, tree)...)
		sameLines(t, list(t, readImage(t, image).Entries(context.Background())), want)
	}
}

// TestReproducible makes the same image with one processor and with several.
func TestReproducible(t *testing.T) {
	files := contents(t)
	make := func(processors int, o Options) []byte {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
		file, _ := writeImage(t, contentEntries(files), o)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range compressions {
		t.Run(name, func(t *testing.T) {
			one, four := make(1, Options{Compression: c}), make(4, Options{Compression: c})
			if !bytes.Equal(one, four) {
				t.Error("the image depends on the number of processors")
			}
			m, err := Open(bytes.NewReader(one), int64(len(one)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			changed := files["mixed"]
			changed[1000] ^= 1
			other := make(4, Options{Compression: c})
			changed[1000] ^= 1
			m2, err := Open(bytes.NewReader(other), int64(len(other)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if m.sb.uuid == m2.sb.uuid {
				t.Error("another content has the same UUID")
			}
		})
	}
}

// contentEntries gives entries of files by their names.
func contentEntries(files map[string][]byte) func(func(*layer.Entry, error) bool) {
	return func(yield func(*layer.Entry, error) bool) {
		for _, name := range sortedKeys(files) {
			e := &layer.Entry{Name: name, Mode: unix.S_IFREG | 0o644, Size: int64(len(files[name])), Content: bytes.NewReader(files[name])}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// TestXattrs writes attributes of every class, many and large ones.
func TestXattrs(t *testing.T) {
	many := []layer.Xattr{{Name: "lustre.x", Value: "dropped"}, {Name: "security.capability", Value: capability}, {Name: "system.posix_acl_access", Value: string(acl)}}
	for i := range 400 {
		many = append(many, layer.Xattr{Name: fmt.Sprintf("user.%03d", i), Value: strings.Repeat("v", i*3)})
	}
	entries := []*layer.Entry{
		{Name: ".", Mode: unix.S_IFDIR | 0o700, Xattrs: many[1:]},
		{Name: "a", Mode: unix.S_IFREG | 0o644, Size: 4000, Content: bytes.NewReader(text(4000)), Xattrs: many},
		{Name: "b", Mode: unix.S_IFREG | 0o644, Size: 20000, Content: bytes.NewReader(text(20000)), Xattrs: many[1:]},
		{Name: "c", Mode: unix.S_IFDIR | 0o755, Xattrs: []layer.Xattr{{Name: "trusted.overlay.opaque", Value: "y"}, {Name: "user.large", Value: strings.Repeat("x", 65535)}}},
		{Name: "d", Mode: unix.S_IFLNK | 0o777, Target: "a", Xattrs: []layer.Xattr{{Name: "trusted.link", Value: ""}}},
	}
	want := ""
	for _, e := range entries {
		f := *e
		if len(f.Xattrs) == len(many) {
			f.Xattrs = f.Xattrs[1:]
		}
		if f.Size > 0 {
			f.Content = bytes.NewReader(text(int(f.Size)))
		}
		want += line(t, &f)
	}
	image, res := writeImage(t, seq(entries...), Options{Compression: LZ4HC})
	if res.DroppedXattrs != 1 {
		t.Errorf("%d attributes dropped, want 1", res.DroppedXattrs)
	}
	sameLines(t, list(t, readImage(t, image).Entries(context.Background())), want)
	layertest.Run(t, "fsck.erofs", image)
	dir := layertest.Mount(t, image, "erofs")
	for _, e := range entries {
		for _, x := range e.Xattrs {
			if x.Name == "lustre.x" {
				continue
			}
			got := make([]byte, 1<<16)
			n, err := unix.Lgetxattr(filepath.Join(dir, e.Name), x.Name, got)
			if err != nil || string(got[:n]) != x.Value {
				t.Errorf("%s: %s: %d bytes, %v; want %d", e.Name, x.Name, n, err, len(x.Value))
			}
		}
	}
}

// capability is cap_net_bind_service=ep.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// acl is u::rw-,u:7:r--,g::r--,m::r--,o::r--.
var acl = []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")

// TestWriteRefuses gives Write what no image can hold.
func TestWriteRefuses(t *testing.T) {
	file := func(name string) *layer.Entry {
		return &layer.Entry{Name: name, Mode: unix.S_IFREG, Size: 1, Content: strings.NewReader("x")}
	}
	for name, entries := range map[string][]*layer.Entry{
		"long name":          {file(strings.Repeat("n", 256))},
		"twice":              {file("a"), file("a")},
		"out of order":       {file("b"), file("a")},
		"no directory":       {file("a/b")},
		"below a file":       {file("a"), file("a/b")},
		"link to nothing":    {{Name: "a", HardLink: "b"}},
		"link to itself":     {{Name: "a", HardLink: "a"}},
		"link to directory":  {{Name: "a", Mode: unix.S_IFDIR}, {Name: "b", HardLink: "a"}},
		"link below a file":  {file("a"), {Name: "b", HardLink: "a/x"}},
		"short content":      {{Name: "a", Mode: unix.S_IFREG, Size: 2, Content: strings.NewReader("x")}},
		"short large":        {{Name: "a", Mode: unix.S_IFREG, Size: 3 << 20, Content: bytes.NewReader(text(1 << 20))}},
		"no content":         {{Name: "a", Mode: unix.S_IFREG, Size: 2}},
		"large device":       {{Name: "a", Mode: unix.S_IFCHR, Major: 4096}},
		"attributes too big": {{Name: "a", Mode: unix.S_IFREG, Xattrs: []layer.Xattr{{Name: "user.a", Value: strings.Repeat("x", 65536)}}}},
	} {
		for _, c := range compressions {
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Write(context.Background(), f, seq(entries...), Options{Compression: c}); err == nil {
				t.Errorf("%s: no error", name)
			}
			f.Close()
		}
	}
}

// TestRandomAccess reads pieces of compressed files by the kernel, which need not
// decompress them from their start.
func TestRandomAccess(t *testing.T) {
	files := contents(t)
	image, _ := writeImage(t, contentEntries(files), Options{Compression: LZ4HC})
	dir := layertest.Mount(t, image, "erofs")
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range sortedKeys(files) {
		want := files[name]
		if len(want) == 0 {
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			at := r.IntN(len(want))
			got := make([]byte, min(len(want)-at, 1+r.IntN(10000)))
			if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, want[at:at+len(got)]) {
				t.Errorf("%s: %d bytes at %d differ, %v", name, len(got), at, err)
			}
		}
		f.Close()
	}
}

// TestMixtures compresses files that are put together by chance, and compares what
// the kernel and the reader see.
func TestMixtures(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	files := map[string][]byte{}
	for i := range 150 {
		var b []byte
		for range 1 + r.IntN(8) {
			n := r.IntN(1 << (4 + r.IntN(15)))
			switch r.IntN(4) {
			case 0:
				b = append(b, random(n)...)
			case 1:
				b = append(b, make([]byte, n)...)
			case 2:
				b = append(b, text(n)...)
			default:
				at := r.IntN(len(b) + 1) // what was there before
				b = append(b, b[at:min(len(b), at+n)]...)
			}
		}
		files[fmt.Sprintf("%03d", i)] = b
	}
	image, _ := writeImage(t, contentEntries(files), Options{Compression: LZ4HC})
	layertest.Run(t, "fsck.erofs", "--extract", image)
	dir := layertest.Mount(t, image, "erofs")
	for e, err := range readImage(t, image).Entries(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Content == nil {
			continue
		}
		want := files[e.Name]
		if got, err := io.ReadAll(e.Content); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the reader sees another content, %v", e.Name, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, e.Name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the kernel sees another content, %v", e.Name, err)
		}
	}
}

// TestVerity appends a hash tree: the image is as good as before.
func TestVerity(t *testing.T) {
	image, res := writeImage(t, contentEntries(contents(t)), Options{Compression: LZ4HC})
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := list(t, readImage(t, image).Entries(context.Background()))
	tree, err := verity.Append(context.Background(), f, res.Size)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := verity.Verify(context.Background(), f, tree.Size, tree.Root); err != nil || size != res.Size {
		t.Errorf("Verify: %d, %v, want %d", size, err, res.Size)
	}
	m := readImage(t, image)
	if m.Size() != res.Size {
		t.Errorf("the image has %d bytes, want %d", m.Size(), res.Size)
	}
	sameLines(t, list(t, m.Entries(context.Background())), want)
	layertest.Run(t, "fsck.erofs", image)
	layertest.Run(t, "veritysetup", "verify", fmt.Sprintf("--hash-offset=%d", res.Size), image, image, tree.Root.String())
	layertest.Mount(t, image, "erofs")
}

// TestLargeFile writes a file whose size has more than 32 bits.
func TestLargeFile(t *testing.T) {
	const size = 1<<32 + 5
	content := io.LimitReader(zeros{}, size)
	image, _ := writeImage(t, seq(&layer.Entry{Name: "f", Mode: unix.S_IFREG | 0o644, Size: size, Content: content}), Options{Compression: LZ4HC})
	st, err := os.Stat(filepath.Join(layertest.Mount(t, image, "erofs"), "f"))
	if err != nil || st.Size() != size {
		t.Errorf("size %d, %v, want %d", st.Size(), err, int64(size))
	}
	for e, err := range readImage(t, image).Entries(context.Background()) {
		if err != nil || e.Size != size && e.Name != "." {
			t.Errorf("%s: size %d, %v, want %d", e.Name, e.Size, err, int64(size))
		}
	}
}

// TestRelativeTime reads a time as Linux 6.15 does.
func TestRelativeTime(t *testing.T) {
	var b buffer
	e := &layer.Entry{Name: "f", Mode: unix.S_IFREG, ModTime: 1000}
	if _, err := Write(context.Background(), &b, seq(e), Options{Time: 1000}); err != nil {
		t.Fatal(err)
	}
	m, err := Open(bytes.NewReader(b), int64(len(b)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	d := &damage{tb: t, image: b, Image: m}
	f, _ := d.find("f")
	d.put(int(f.at)+12, 4, 77)
	sameLines(t, list(t, m.Entries(context.Background())), "\".\" 040755 0:0 t0\n\"f\" 100000 0:0 t1077 0 e3b0c44298fc1c14\n")
}

// TestCanceled stops in the middle of a file.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	content := readerFunc(func(b []byte) (int, error) {
		cancel()
		return len(b), nil
	})
	for _, c := range compressions {
		var b buffer
		_, err := Write(ctx, &b, seq(&layer.Entry{Name: "f", Mode: unix.S_IFREG, Size: 1 << 40, Content: content}), Options{Compression: c})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) {
	return f(b)
}

// TestEmpty makes the image of nothing.
func TestEmpty(t *testing.T) {
	image, res := writeImage(t, seq(), Options{})
	if res.Size != 2*blockSize {
		t.Errorf("%d bytes, want %d", res.Size, 2*blockSize)
	}
	sameLines(t, list(t, readImage(t, image).Entries(context.Background())), "\".\" 040755 0:0 t0\n")
	layertest.Run(t, "fsck.erofs", image)
}
