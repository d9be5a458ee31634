// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// epoch is the time of all entries that say nothing else.
var epoch = time.Unix(1700000000, 0)

// An entry is one entry of a test archive.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}, body: body}
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func (e entry) with(change func(*tar.Header)) entry {
	e.PAXRecords = maps.Clone(e.PAXRecords)
	change(&e.Header)
	return e
}

func (e entry) xattr(name, value string) entry {
	return e.with(func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = value
	})
}

func (e entry) owned(uid, gid int) entry {
	return e.with(func(h *tar.Header) { h.Uid, h.Gid = uid, gid })
}

func (e entry) mode(mode int64) entry {
	return e.with(func(h *tar.Header) { h.Mode = mode })
}

// pack writes entries as an archive, without sorting or checking them.
func pack(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.ModTime.IsZero() && e.Typeflag != tar.TypeXGlobalHeader {
			e.ModTime = epoch
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			tb.Fatalf("write header of %q: %v", e.Name, err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			tb.Fatalf("write content of %q: %v", e.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// applyAll applies archives one above the other and returns the trees.
func applyAll(tb testing.TB, base string, o ApplyOptions, archives ...[]byte) (trees []string, last ApplyResult, err error) {
	tb.Helper()
	for i, b := range archives {
		tree := filepath.Join(base, fmt.Sprintf("tree%d", i))
		if err := os.Mkdir(tree, 0o755); err != nil {
			tb.Fatal(err)
		}
		lower := trees
		o.Lower = func() ([]string, error) { return lower, nil }
		last, err = Apply(context.Background(), tree, bytes.NewReader(b), o)
		trees = append(slices.Clip(trees), tree)
		if err != nil {
			return trees, last, err
		}
	}
	return trees, last, nil
}

// mustApply is applyAll for archives that are right; it returns the last tree.
func mustApply(tb testing.TB, archives ...[]byte) (string, ApplyResult) {
	tb.Helper()
	trees, res, err := applyAll(tb, tb.TempDir(), ApplyOptions{}, archives...)
	if err != nil {
		tb.Fatal(err)
	}
	return trees[len(trees)-1], res
}

// describe renders a tree, one line for each file.
func describeTree(tb testing.TB, top string) string {
	tb.Helper()
	var b strings.Builder
	err := filepath.WalkDir(top, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, p)
		fmt.Fprintf(&b, "%s %s\n", rel, describePath(tb, p))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func describePath(tb testing.TB, p string) string {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%06o %d:%d n%d t%d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Nano())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		s += fmt.Sprintf(" %x", sha256.Sum256(data))
	case unix.S_IFLNK:
		target, _ := os.Readlink(p)
		return s + " -> " + target
	case unix.S_IFDIR:
	default:
		return s + fmt.Sprintf(" dev%d", st.Rdev)
	}
	for name, value := range xattrs(tb, p) {
		s += fmt.Sprintf(" %s=%q", name, value)
	}
	return s
}

// xattrs returns the attributes of p but the label of the host.
func xattrs(tb testing.TB, p string) map[string]string {
	tb.Helper()
	r, err := rootfs.Open(filepath.Dir(p))
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	names, err := r.Llistxattr(filepath.Base(p))
	if err != nil {
		tb.Fatal(err)
	}
	m := map[string]string{}
	for _, name := range names {
		if name == "security.selinux" {
			continue
		}
		value, err := r.Lgetxattr(filepath.Base(p), name)
		if err != nil {
			tb.Fatal(err)
		}
		m[name] = string(value)
	}
	return m
}

// TestMain gives the tests the rights that a worker has: an ordinary user runs
// them in a user namespace.
func TestMain(m *testing.M) {
	const inside = "STACKER_TEST_NAMESPACE"
	if os.Geteuid() == 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	err := cmd.Run()
	switch {
	case err == nil:
		os.Exit(0)
	case cmd.ProcessState == nil && os.Getenv("CI") != "true":
		fmt.Fprintln(os.Stderr, "skipped: needs root or a user namespace:", err)
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "in a user namespace:", err)
	os.Exit(1)
}

// unavailable skips the test for want of something that continuous integration
// must have.
func unavailable(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(reason)
	}
	tb.Skip(reason)
}

// needIDs skips tests that give files to other users.
func needIDs(tb testing.TB) {
	tb.Helper()
	p := filepath.Join(tb.TempDir(), "f")
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Lchown(p, 1000, 1001); err != nil {
		unavailable(tb, "needs to change owners: "+err.Error())
	}
}

// stat is os.Lstat with the system's own result.
func stat(tb testing.TB, elem ...string) *syscall.Stat_t {
	tb.Helper()
	fi, err := os.Lstat(filepath.Join(elem...))
	if err != nil {
		tb.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t)
}
