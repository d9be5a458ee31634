// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"build.stacker.dev/internal/layer/record"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A want says what must be at a path: "absent", "whiteout", "opaque", "dir",
// "-> target" or a file's content.
type want map[string]string

func checkTree(t *testing.T, tree string, w want) {
	t.Helper()
	for p, expected := range w {
		if got := kindAt(t, filepath.Join(tree, p)); got != expected {
			t.Errorf("%s is %q, want %q", p, got, expected)
		}
	}
}

func kindAt(t *testing.T, p string) string {
	t.Helper()
	fi, err := os.Lstat(p)
	switch {
	case err != nil:
		return "absent"
	case fi.Mode()&os.ModeSymlink != 0:
		target, _ := os.Readlink(p)
		return "-> " + target
	case fi.IsDir():
		if xattrs(t, p)[xattrOpaque] == "y" {
			return "opaque"
		}
		return "dir"
	case fi.Mode()&os.ModeCharDevice != 0 && stat(t, p).Rdev == 0:
		return "whiteout"
	}
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestApplyLayers(t *testing.T) {
	wh := func(name string) entry { return file(name, "") }
	cases := []struct {
		name   string
		layers [][]entry
		want   want // of the last tree
		lower  bool // something was taken from the layers below
	}{
		{"plain", [][]entry{{dir("a", 0o755), file("a/f", "1")}}, want{"a": "dir", "a/f": "1"}, false},
		{"last wins", [][]entry{{file("f", "1"), file("f", "2")}}, want{"f": "2"}, false},
		{"last wins, hard link unharmed", [][]entry{{file("f", "1"), hardlink("g", "f"), file("f", "2")}}, want{"f": "2", "g": "1"}, false},
		{"dir stays", [][]entry{{dir("d", 0o700), file("d/f", "1"), dir("d", 0o755)}}, want{"d/f": "1"}, false},
		{"file to dir", [][]entry{{file("d", "1"), dir("d", 0o755), file("d/f", "2")}}, want{"d": "dir", "d/f": "2"}, false},
		{"dir to file", [][]entry{{dir("d", 0o755), file("d/e/f", "1"), file("d", "2")}}, want{"d": "2"}, false},
		{"dir to file to dir", [][]entry{{file("d/e/f", "1"), file("d", "2"), dir("d", 0o755)}}, want{"d": "dir", "d/e": "absent"}, false},
		{"dir to link elsewhere", [][]entry{{file("d/f", "1"), dir("e", 0o755), symlink("d", "e"), file("d/g", "2")}},
			want{"d": "-> e", "e/g": "2", "e/f": "absent"}, false},
		{"link to dir", [][]entry{{dir("e", 0o755), symlink("d", "e"), file("d/f", "1"), dir("d", 0o755), file("d/g", "2")}},
			want{"d": "dir", "d/g": "2", "e/f": "1", "e/g": "absent"}, false},
		{"through link", [][]entry{{dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("lib/x", "1")}}, want{"lib": "-> usr/lib", "usr/lib/x": "1"}, false},
		{"through absolute link", [][]entry{{symlink("lib", "/usr/lib"), file("lib/x", "1")}}, want{"usr/lib/x": "1"}, false},
		{"through link below", [][]entry{{dir("usr/lib", 0o755), symlink("lib", "usr/lib")}, {file("lib/x", "1")}},
			want{"lib": "absent", "usr/lib/x": "1"}, true},
		{"dir over link below", [][]entry{{dir("usr/lib", 0o755), symlink("lib", "usr/lib")}, {dir("lib", 0o755), file("lib/x", "1")}},
			want{"lib": "dir", "lib/x": "1", "usr": "absent"}, false},
		{"parent below", [][]entry{{dir("a/b", 0o700)}, {file("a/b/f", "1")}}, want{"a/b/f": "1"}, true},
		{"parent nowhere", [][]entry{{dir("a", 0o700)}, {file("b/f", "1")}}, want{"b/f": "1"}, false},
		{"parent below is a file", [][]entry{{file("a", "1")}, {file("a/f", "2")}}, want{"a/f": "2"}, false},
		{"parent removed below", [][]entry{{dir("a", 0o700)}, {wh(".wh.a")}, {file("a/f", "1")}}, want{"a": "dir"}, false},
		{"whiteout", [][]entry{{file("a/f", "1")}, {dir("a", 0o755), wh("a/.wh.f")}}, want{"a/f": "whiteout"}, false},
		{"whiteout, then file", [][]entry{{wh(".wh.f"), file("f", "1")}}, want{"f": "1"}, false},
		{"file, then whiteout", [][]entry{{file("f", "1"), wh(".wh.f")}}, want{"f": "1"}, false},
		{"whiteout, then dir", [][]entry{{wh(".wh.d"), dir("d", 0o755)}}, want{"d": "opaque"}, false},
		{"dir, then whiteout", [][]entry{{dir("d", 0o755), file("d/f", "1"), wh(".wh.d")}}, want{"d": "opaque", "d/f": "1"}, false},
		{"whiteout, then implicit dir", [][]entry{{dir("d", 0o700)}, {wh(".wh.d"), file("d/f", "1")}}, want{"d": "opaque", "d/f": "1"}, false},
		{"whiteout, then link", [][]entry{{wh(".wh.d"), symlink("d", "x")}}, want{"d": "-> x"}, false},
		{"whiteout twice", [][]entry{{wh(".wh.d"), wh(".wh.d")}}, want{"d": "whiteout"}, false},
		{"opaque first", [][]entry{{dir("d", 0o755), wh("d/.wh..wh..opq"), file("d/f", "1")}}, want{"d": "opaque", "d/f": "1"}, false},
		{"opaque last", [][]entry{{file("d/f", "1"), wh("d/.wh..wh..opq")}}, want{"d": "opaque", "d/f": "1"}, false},
		{"opaque, then whiteout", [][]entry{{dir("d", 0o755), wh("d/.wh..wh..opq"), wh("d/.wh.x"), wh("d/e/.wh.y")}},
			want{"d": "opaque", "d/x": "absent", "d/e/y": "absent"}, false},
		{"whiteout, then opaque", [][]entry{{dir("d", 0o755), wh("d/.wh.x"), wh("d/.wh..wh..opq"), file("d/z", "1")}},
			want{"d": "opaque", "d/x": "absent", "d/z": "1"}, false},
		{"opaque hides parents", [][]entry{{dir("d/e", 0o700)}, {dir("d", 0o755), wh("d/.wh..wh..opq"), file("d/e/f", "1")}}, want{"d": "opaque"}, false},
		{"hard link", [][]entry{{file("a", "1"), hardlink("b", "a"), hardlink("/c", "/a")}}, want{"b": "1", "c": "1"}, false},
		{"hard link below", [][]entry{{file("a/f", "1")}, {hardlink("g", "a/f"), hardlink("h", "a/f")}}, want{"g": "1", "h": "1"}, true},
		{"hard link below through link", [][]entry{{file("a/f", "1"), symlink("l", "a")}, {hardlink("g", "l/f")}}, want{"g": "1"}, true},
		{"hard link to symlink below", [][]entry{{symlink("l", "nowhere")}, {hardlink("g", "l")}}, want{"g": "-> nowhere"}, true},
		{"device then file", [][]entry{{char("d", 1, 3), file("d", "1")}}, want{"d": "1"}, false},
		{"char 0:0 is no whiteout", [][]entry{{char("d", 0, 0)}}, want{"d": ""}, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var archives [][]byte
			for _, layer := range tc.layers {
				archives = append(archives, pack(t, layer...))
			}
			tree, res := mustApply(t, archives...)
			checkTree(t, tree, tc.want)
			if res.SelfContained == tc.lower {
				t.Errorf("SelfContained = %v, want %v", res.SelfContained, !tc.lower)
			}
			last := archives[len(archives)-1]
			if d := digest.FromBytes(last); res.DiffID != d || res.Size != int64(len(last)) {
				t.Errorf("DiffID, Size = %s, %d, want %s, %d", res.DiffID, res.Size, d, len(last))
			}
		})
	}
}

func TestApplyHardlinkCopiedOnce(t *testing.T) {
	tree, _ := mustApply(t, pack(t, file("a", "1")), pack(t, hardlink("g", "a"), hardlink("h", "a")))
	if got := stat(t, tree, "g").Nlink; got != 2 {
		t.Errorf("link count = %d, want 2", got)
	}
}

func TestApplyRoot(t *testing.T) {
	base := pack(t, dir("./", 0o711))
	tree, res := mustApply(t, base)
	if got := stat(t, tree).Mode & modeBits; got != 0o711 || !res.HasRoot {
		t.Errorf("mode, HasRoot = %o, %v, want 711, true", got, res.HasRoot)
	}
	if got := stat(t, tree).Mtim.Sec; got != epoch.Unix() {
		t.Errorf("mtime = %d, want %d", got, epoch.Unix())
	}
	tree, res = mustApply(t, base, pack(t, file("f", "1")))
	if got := stat(t, tree).Mode & modeBits; got != 0o711 || res.HasRoot {
		t.Errorf("above a lower tree: mode, HasRoot = %o, %v, want 711, false", got, res.HasRoot)
	}
	tree, _ = mustApply(t, pack(t, file("f", "1")))
	if got := stat(t, tree).Mode & modeBits; got != 0o755 {
		t.Errorf("without a description: mode = %o, want 755", got)
	}
	if _, res = mustApply(t, pack(t, file(".wh..wh..opq", ""))); !res.OpaqueRoot {
		t.Error("OpaqueRoot = false, want true")
	}
}

func TestApplyAttributes(t *testing.T) {
	needIDs(t)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw+ep
	archive := pack(t,
		dir("d", 0o2775).owned(1, 50).xattr("user.a", "1"),
		file("d/f", "x").owned(1000, 1001),
		file("suid", "x").owned(1000, 1001).mode(0o6755),
		file("cap", "x").owned(1000, 1001).xattr(xattrCapability, capability),
		file("ro", "x").mode(0o444).xattr("user.b", "2"),
		dir("closed", 0).owned(1000, 1001),
		file("closed/f", "x"),
		symlink("l", "x").owned(1000, 1001),
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o4622, Uid: 7, Gid: 8}},
		file("marks", "x").xattr("user.overlay.opaque", "y").xattr("trusted.overlay.opaque", "y").xattr("user.overlay.overlay.x", "z").
			xattr("user.rootlesscontainers", "\x08\x05").xattr("user.stacker.node", "b 8 0 666").xattr("security.selinux", "l"),
		dir("dmarks", 0o755).xattr("user.overlay.opaque", "y").xattr("user.overlay.whiteout", "y"),
		char("null", 1, 3).owned(3, 4),
	)
	for _, umask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			base := t.TempDir()
			old := unix.Umask(umask)
			trees, res, err := applyAll(t, base, ApplyOptions{}, archive)
			unix.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			checkAttributes(t, trees[0])
			if x := xattrs(t, trees[0]+"/cap")[xattrCapability]; x != capability {
				t.Errorf("capability = %x, want %x", x, capability)
			}
			if res.DroppedXattrs != 4 {
				t.Errorf("DroppedXattrs = %d, want 4", res.DroppedXattrs)
			}
			var out bytes.Buffer
			if _, err := Diff(context.Background(), &out, trees[0], DiffOptions{}); err != nil {
				t.Fatal(err)
			}
			checkWritten(t, out.Bytes())
		})
	}
}

func checkAttributes(t *testing.T, tree string) {
	t.Helper()
	for _, w := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
	}{
		{"d", unix.S_IFDIR | 0o2775, 1, 50},
		{"d/f", unix.S_IFREG | 0o644, 1000, 1001},
		{"suid", unix.S_IFREG | 0o6755, 1000, 1001},
		{"ro", unix.S_IFREG | 0o444, 0, 0},
		{"closed", unix.S_IFDIR, 1000, 1001},
		{"l", unix.S_IFLNK | 0o777, 1000, 1001},
		{"p", unix.S_IFIFO | 0o4622, 7, 8},
		{"null", unix.S_IFREG, 3, 4},
	} {
		st := stat(t, tree, w.name)
		if st.Mode != w.mode || st.Uid != w.uid || st.Gid != w.gid {
			t.Errorf("%s: %o %d:%d, want %o %d:%d", w.name, st.Mode, st.Uid, st.Gid, w.mode, w.uid, w.gid)
		}
		if st.Mtim.Sec != epoch.Unix() || st.Mtim.Nsec != 0 {
			t.Errorf("%s: mtime %d.%d, want %d", w.name, st.Mtim.Sec, st.Mtim.Nsec, epoch.Unix())
		}
	}
	for name, w := range map[string]map[string]string{
		"d":      {"user.a": "1"},
		"ro":     {"user.b": "2"},
		"marks":  {"user.overlay.overlay.opaque": "y", "user.overlay.overlay.overlay.x": "z"},
		"dmarks": {"user.overlay.overlay.opaque": "y", "user.overlay.overlay.whiteout": "y"},
		"null":   {"user.stacker.node": "c 1 3 666"},
	} {
		if got := xattrs(t, filepath.Join(tree, name)); fmt.Sprint(got) != fmt.Sprint(w) {
			t.Errorf("%s: attributes %v, want %v", name, got, w)
		}
	}
}

// checkWritten checks that devices and marks come out as they went in.
func checkWritten(t *testing.T, archive []byte) {
	t.Helper()
	for hdr, err := range Entries(bytes.NewReader(archive)) {
		if err != nil {
			t.Fatal(err)
		}
		switch hdr.Name {
		case "null":
			if hdr.Typeflag != tar.TypeChar || hdr.Devmajor != 1 || hdr.Devminor != 3 || hdr.Mode != 0o666 || hdr.Uid != 3 {
				t.Errorf("device written as %+v", hdr)
			}
		case "marks":
			got := fmt.Sprint(hdr.PAXRecords)
			if w := fmt.Sprint(map[string]string{paxXattr + "user.overlay.opaque": "y", paxXattr + "user.overlay.overlay.x": "z"}); got != w {
				t.Errorf("marks written as %s, want %s", got, w)
			}
		}
	}
}

func TestApplySingleID(t *testing.T) {
	archive := pack(t, dir("d", 0o755).owned(0, 42), file("f", "x").owned(1000, 300).mode(0o444), char("n", 5, 0).owned(0, 5), symlink("l", "x").owned(7, 7))
	trees, _, err := applyAll(t, t.TempDir(), ApplyOptions{SingleID: true}, archive)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]string{"d": "\x10\x2a", "f": "\x08\xe8\x07\x10\xac\x02", "n": "\x10\x05"} {
		if got := xattrs(t, filepath.Join(trees[0], name))[record.Owner]; got != w {
			t.Errorf("%s: owner attribute = %q, want %q", name, got, w)
		}
		if st := stat(t, trees[0], name); int(st.Uid) != os.Getuid() {
			t.Errorf("%s: uid = %d, want %d", name, st.Uid, os.Getuid())
		}
	}
	var out bytes.Buffer
	if _, err := Diff(context.Background(), &out, trees[0], DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	got := ""
	for hdr, err := range Entries(&out) {
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag != tar.TypeSymlink {
			got += fmt.Sprintf("%s %d:%d ", hdr.Name, hdr.Uid, hdr.Gid)
		}
	}
	if w := "d 0:42 f 1000:300 n 0:5 "; got != w {
		t.Errorf("written owners = %q, want %q", got, w)
	}
}

func TestApplyImplicitParentLikeLower(t *testing.T) {
	needIDs(t)
	lower := pack(t, dir("a", 0o2750).owned(5, 6).xattr("user.k", "v"))
	tree, _ := mustApply(t, lower, pack(t, file("a/f", "1")))
	st := stat(t, tree, "a")
	if st.Mode&modeBits != 0o2750 || st.Uid != 5 || st.Gid != 6 || st.Mtim.Sec != epoch.Unix() {
		t.Errorf("a: %o %d:%d %d, want 2750 5:6 %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, epoch.Unix())
	}
	if got := xattrs(t, tree+"/a")["user.k"]; got != "v" {
		t.Errorf("user.k = %q, want v", got)
	}
	tree, _ = mustApply(t, lower, pack(t, file("a/f", "1"), dir("a", 0o755)))
	if got := xattrs(t, tree+"/a"); len(got) != 0 {
		t.Errorf("attributes of a described directory = %v, want none", got)
	}
}

func TestApplySparse(t *testing.T) {
	body := make([]byte, 8<<20)
	copy(body[3<<20:], "data in the middle")
	tree, _ := mustApply(t, pack(t, file("f", string(body)), file("zero", string(make([]byte, 4<<20)))))
	got, err := os.ReadFile(filepath.Join(tree, "f"))
	if err != nil || sha256.Sum256(got) != sha256.Sum256(body) {
		t.Errorf("content differs (error %v)", err)
	}
	if st := stat(t, tree, "f"); st.Blocks*512 > 1<<20 {
		t.Errorf("takes %d bytes of disk, want holes", st.Blocks*512)
	}
	if st := stat(t, tree, "zero"); st.Size != 4<<20 {
		t.Errorf("size = %d, want %d", st.Size, 4<<20)
	}
}

func TestApplyDeep(t *testing.T) {
	name := strings.Repeat("d/", 2000) + "f"
	archive := pack(t, file(name, "x"))
	tree, _ := mustApply(t, archive)
	res, err := Diff(context.Background(), nil, tree, DiffOptions{})
	if err != nil || res.Entries != 2001 {
		t.Errorf("Diff: %d entries, error %v, want 2001", res.Entries, err)
	}
}

func TestApplyLimits(t *testing.T) {
	archive := pack(t, file("a", "1"), file("b", strings.Repeat("2", 4000)))
	for _, tc := range []struct {
		limits Limits
		want   string
	}{
		{Limits{MaxEntries: 1}, "more than 1 entries"},
		{Limits{MaxBytes: 100}, "larger than the limit of 100 bytes"},
		{Limits{MaxBytes: 6000}, "larger than the limit of 6000 bytes"},
	} {
		_, _, err := applyAll(t, t.TempDir(), ApplyOptions{Limits: tc.limits}, archive)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error = %v, want %q", tc.limits, err, tc.want)
		}
	}
	if _, _, err := applyAll(t, t.TempDir(), ApplyOptions{Limits: Limits{MaxEntries: 2, MaxBytes: 1 << 20}}, archive); err != nil {
		t.Errorf("within limits: %v", err)
	}
}

// setByte changes one field of the header block at off and its checksum.
func patchHeader(b []byte, off, field int, value string) []byte {
	b = bytes.Clone(b)
	block := b[off : off+blockSize]
	copy(block[field:], value)
	copy(block[148:156], "        ")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestApplyBytes(t *testing.T) {
	plain := pack(t, file("f", "content"))
	link := pack(t, file("f", "content"), hardlink("g", "f"))
	pax := func(record string) []byte {
		body := []byte(record)
		head := patchHeader(pack(t, file("x", ""))[:blockSize], 0, 156, "x")
		head = patchHeader(head, 0, 124, fmt.Sprintf("%011o", len(body)))
		return append(append(head, append(body, make([]byte, blockSize-len(body)%blockSize)...)...), plain...)
	}
	cases := []struct {
		name    string
		archive []byte
		want    string // "" if it is fine
	}{
		{"nothing", nil, ""},
		{"only zeros", make([]byte, 1024), ""},
		{"no end mark", plain[:2*blockSize], ""},
		{"much padding", append(bytes.Clone(plain), make([]byte, 1<<20)...), ""},
		{"junk after the end", append(bytes.Clone(plain), "junk"...), ""},
		{"cut in a header", plain[:100], "unexpected EOF"},
		{"cut in content", plain[:blockSize+3], `entry "f": read content: unexpected EOF`},
		{"cut in a later header", link[:2*blockSize+10], `after entry "f": unexpected EOF`},
		{"one zero block", append(append(bytes.Clone(plain[:2*blockSize]), make([]byte, blockSize)...), plain...), "invalid tar header"},
		{"link with content", patchHeader(link, 2*blockSize, 124, "00000001000"), `entry "g": 512 bytes of content`},
		{"directory with content", patchHeader(plain, 0, 156, "5"), `entry "f": 7 bytes of content`},
		{"negative size", patchHeader(plain, 0, 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "invalid tar header"},
		{"huge size", patchHeader(plain, 0, 124, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"), `entry "f": read content`},
		{"bad checksum", append([]byte("x"), plain[1:]...), "invalid tar header"},
		{"pax size", pax("10 size=7\n"), ""},
		{"pax size lies", pax("19 size=7777777777\n"), `entry "f": read content`},
		{"pax size negative", pax("11 size=-7\n"), "invalid tar header"},
		{"pax path leads out", pax("13 path=../x\n"), `entry "../x": name leads out`},
		{"pax garbage", pax("nonsense"), "invalid tar header"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, res, err := applyAll(t, t.TempDir(), ApplyOptions{}, tc.archive)
			switch {
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error = %v, want one with %q", err, tc.want)
			case tc.want == "" && err != nil:
				t.Errorf("error = %v, want none", err)
			case tc.want == "" && res.DiffID != digest.FromBytes(tc.archive):
				t.Errorf("DiffID = %s, want %s", res.DiffID, digest.FromBytes(tc.archive))
			}
		})
	}
}

func TestApplyReadError(t *testing.T) {
	broken := errors.New("broken stream")
	plain := pack(t, file("f", "content"))
	for _, n := range []int{10, blockSize + 3, len(plain)} {
		r := io.MultiReader(bytes.NewReader(plain[:n]), iotest.ErrReader(broken))
		if _, err := Apply(context.Background(), t.TempDir(), r, ApplyOptions{}); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: error = %v, want %v", n, err, broken)
		}
	}
	// What a broken compressed stream gives must not pass for its end.
	r := io.MultiReader(bytes.NewReader(plain), iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := Apply(context.Background(), t.TempDir(), r, ApplyOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Apply(ctx, t.TempDir(), bytes.NewReader(plain), ApplyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
}

func FuzzApply(f *testing.F) {
	for _, tc := range hostileCases {
		for _, layer := range tc.layers {
			f.Add(pack(f, layer...))
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		base := t.TempDir()
		newCanary(t, base)
		before := canaryState(t, base)
		lower := pack(t, dir("usr/lib", 0o755), symlink("lib", "usr/lib"), symlink("l", "../canary"), file("f", "x"))
		trees, _, err := applyAll(t, base, ApplyOptions{Limits: Limits{MaxBytes: 1 << 24, MaxEntries: 1000}}, lower, archive)
		if after := canaryState(t, base); after != before {
			t.Errorf("canary changed:\n%s\nwas:\n%s", after, before)
		}
		if err == nil {
			// An unpacked layer can be packed again.
			if _, err := Diff(context.Background(), nil, trees[1], DiffOptions{}); err != nil {
				t.Errorf("Diff: %v", err)
			}
		}
	})
}
