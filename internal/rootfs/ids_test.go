// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
)

// TestOrdinaryUser handles trees as a user who is not root: the test starts itself as one.
func TestOrdinaryUser(t *testing.T) {
	const variable = "ROOTFS_TEST_TREE"
	dir := os.Getenv(variable)
	if dir == "" {
		asUser(t, variable)
		return
	}
	if err := os.Mkdir(filepath.Join(dir, "secret"), 0o311); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret", "file"), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	r, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, name := range []string{".", "secret", "secret/file"} {
		st, err := r.Lstat(name)
		if err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
		if err := r.Lchown(name, 0, 0); err != nil {
			t.Error(err)
		}
	}
	if err := r.Lchown("secret", 0, 7); err == nil {
		t.Error("a group was given that this user is not in")
	}
	if list, err := r.ReadDir("secret"); err != nil || len(list) != 1 {
		t.Errorf("the directory has %v, %v", list, err)
	}
	f, err := r.Open("secret/file")
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for name, want := range map[string]uint32{"secret": 0o311, "secret/file": 0} {
		if st, err := r.Lstat(name); err != nil || st.Mode&0o7777 != want {
			t.Errorf("%s has mode %o, %v, want %o", name, st.Mode&0o7777, err, want)
		}
	}
	if _, err := r.Open("foreign"); err == nil {
		t.Error("a file of somebody else was opened")
	}
}

func asUser(t *testing.T, variable string) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	const uid = 54321
	dir, err := os.MkdirTemp("", "rootfs")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program, tree := filepath.Join(dir, "test"), filepath.Join(dir, "tree")
	if err := os.WriteFile(program, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "foreign"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, tree} {
		if err := unix.Chown(p, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-test.run=^TestOrdinaryUser$")
	cmd.Env = append(os.Environ(), variable+"="+tree)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
