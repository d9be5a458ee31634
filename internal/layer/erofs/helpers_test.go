// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/layertest"
	"golang.org/x/sys/unix"
)

// Contents of different kinds.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

func text(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of %d words\n", b.Len(), r.IntN(1000))
	}
	return b.Bytes()[:n]
}

func program(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		tb.Fatal(err)
	}
	return b[:min(len(b), 3<<20)]
}

// contents are files that meet the corners of the format.
func contents(tb testing.TB) map[string][]byte {
	tb.Helper()
	m := map[string][]byte{
		"zeros": make([]byte, 2<<20), "random": random(2<<20 + 123), "program": program(tb),
		"mixed":  bytes.Join([][]byte{text(300_000), random(200_000), make([]byte, 100_000), text(1 << 20), random(5000)}, nil),
		"mixed2": bytes.Join([][]byte{random(5000), text(7000), random(4096 * 3), text(50_001)}, nil),
		"late":   append(random(1<<20), text(1<<20)...),
	}
	for _, n := range []int{0, 1, 31, 2000, 4000, 4031, 4032, 4033, 4063, 4064, 4065, 4095, 4096, 4097, 8191, 8192, 8193, 12288, 20000, 65536, 131072, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		m[fmt.Sprintf("random%d", n)] = random(n)
		m[fmt.Sprintf("text%d", n)] = text(n)
		m[fmt.Sprintf("zeros%d", n)] = make([]byte, n)
	}
	return m
}

// makeTree makes a directory with everything that a layer can have.
func makeTree(tb testing.TB) string {
	tb.Helper()
	layertest.NeedRoot(tb)
	top := filepath.Join(tb.TempDir(), "tree")
	do := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(top, name) }
	do(os.MkdirAll(at("content"), 0o755))
	for name, b := range contents(tb) {
		do(os.WriteFile(at("content/"+name), b, 0o644))
	}
	do(os.MkdirAll(at("large/empty"), 0o700))
	for i := range 1200 {
		do(os.WriteFile(at(fmt.Sprintf("large/%05d-a-name-of-some-length", i*7)), []byte(fmt.Sprint(i)), 0o600))
	}
	do(os.MkdirAll(at("deep/"+strings.Repeat("d/", 60)), 0o755))
	do(os.MkdirAll(at("names"), 0o755))
	for _, n := range []string{"!before", "-dash", "..three", ".hidden", "ümlaut", " space", strings.Repeat("n", 255), "new\nline"} {
		do(os.WriteFile(at("names/"+n), []byte(n), 0o644))
	}
	do(os.Symlink("../content/text2000", at("names/link")))
	do(os.Symlink(strings.Repeat("x/", 2000), at("names/long")))
	do(os.Symlink("/", at("slash")))
	do(unix.Mkfifo(at("fifo"), 0o640))
	do(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	do(unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	do(unix.Mknod(at("gone"), unix.S_IFCHR, 0))
	do(os.Link(at("content/text20000"), at("names/hard")))
	do(os.Link(at("content/text20000"), at("zhard")))
	do(os.Link(at("null"), at("null2")))
	do(os.Chmod(at("content/text1"), 0o4755|os.ModeSetuid))
	do(os.Lchown(at("content/text31"), 100000, 200000))
	do(os.Lchown(at("slash"), 7, 8))
	do(unix.Setxattr(at("content/text31"), "user.small", []byte("value"), 0))
	do(unix.Setxattr(at("content/text2000"), "user.small", []byte("value"), 0))
	do(unix.Setxattr(at("content/random2000"), "user.small", []byte("value"), 0))
	do(unix.Setxattr(at("content/text4000"), "user.big", text(1500), 0))
	do(unix.Setxattr(at("content/text4000"), "security.capability", []byte(capability), 0))
	do(unix.Setxattr(at("deep"), "user.overlay.opaque", []byte("y"), 0))
	do(os.Chtimes(at("gone"), time.Unix(0, 0), time.Unix(0, 0))) // as Diff writes it
	for _, name := range []string{"content/text1", "large", "names"} {
		do(os.Chtimes(at(name), epoch, epoch))
	}
	return top
}

// writeImage makes an image of entries.
func writeImage(tb testing.TB, entries iter.Seq2[*layer.Entry, error], o Options) (string, Result) {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	res, err := Write(context.Background(), f, entries, o)
	if err != nil {
		tb.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != res.Size {
		tb.Fatalf("the image has %d bytes, Write said %d", st.Size(), res.Size)
	}
	return f.Name(), res
}

// readImage opens an image.
func readImage(tb testing.TB, file string) *Image {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	m, err := Open(f, st.Size(), Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// list renders entries, one line for each.
func list(tb testing.TB, entries iter.Seq2[*layer.Entry, error]) string {
	tb.Helper()
	var b strings.Builder
	for e, err := range entries {
		if err != nil {
			tb.Fatal(err)
		}
		b.WriteString(line(tb, e))
	}
	return b.String()
}

func line(tb testing.TB, e *layer.Entry) string {
	tb.Helper()
	if e.HardLink != "" {
		return fmt.Sprintf("%q = %q\n", e.Name, e.HardLink)
	}
	s := fmt.Sprintf("%q %06o %d:%d t%d", e.Name, e.Mode, e.UID, e.GID, e.ModTime)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h := sha256.New()
		n := int64(0)
		if e.Content != nil {
			var err error
			if n, err = io.Copy(h, e.Content); err != nil {
				tb.Fatalf("%s: %v", e.Name, err)
			}
		}
		if n != e.Size {
			tb.Errorf("%s: %d bytes of content, want %d", e.Name, n, e.Size)
		}
		s += fmt.Sprintf(" %d %x", e.Size, h.Sum(nil)[:8])
	case unix.S_IFLNK:
		s += fmt.Sprintf(" -> %q", e.Target)
	case unix.S_IFCHR, unix.S_IFBLK:
		s += fmt.Sprintf(" %d,%d", e.Major, e.Minor)
	}
	for _, x := range e.Xattrs {
		s += fmt.Sprintf(" %s=%x", x.Name, sha256.Sum256([]byte(x.Value)))[:40]
	}
	return s + "\n"
}

// sameLines reports the first lines that differ.
func sameLines(tb testing.TB, got, want string) {
	tb.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			tb.Fatalf("line %d of %d, want %d:\ngot  %s\nwant %s", i, len(g), len(w), g[i], w[min(i, len(w)-1)])
		}
	}
	tb.Fatalf("%d lines, want %d", len(g), len(w))
}

// seq gives entries that need no directory.
func seq(entries ...*layer.Entry) iter.Seq2[*layer.Entry, error] {
	return func(yield func(*layer.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func sortedKeys(m map[string][]byte) []string {
	return slices.Sorted(maps.Keys(m))
}
