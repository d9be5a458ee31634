// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts of testdata/script run the real program: as whoever runs the
// tests, and, where that is root, as a plain user with subordinate ids and as
// one without, too. "root-" and "user-" begin the names of scripts for only one
// of them.
const (
	homeVariable  = "STACKER_TEST_HOME"  // directory with the program, the scripts and the bases
	levelVariable = "STACKER_TEST_LEVEL" // root, subid, single
	plainUser     = "stackertest"
	singleUser    = "stackertest1"
)

// scripts counts the scripts of this process, for names that no two share.
var scripts atomic.Int64

func TestMain(m *testing.M) {
	if os.Getenv(homeVariable) != "" {
		os.Exit(m.Run())
	}
	os.Exit(prepared(m))
}

// prepared builds the program and puts everything that scripts need where
// other users can read it.
func prepared(m *testing.M) int {
	home, err := os.MkdirTemp("", "stacker-script-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(home)
	if err := prepare(home); err != nil {
		fmt.Fprintln(os.Stderr, "prepare script tests:", err)
		return 1
	}
	os.Setenv(homeVariable, home)
	os.Setenv("TMPDIR", filepath.Join(home, "tmp")) // so that nothing outlives a failed run
	return m.Run()
}

func prepare(home string) error {
	if err := os.Chmod(home, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", filepath.Join(home, "bin", "stacker"), "build.stacker.dev/cmd/stacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build stacker: %w\n%s", err, out)
	}
	spec, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/image-spec").Output()
	if err != nil {
		return fmt.Errorf("find the image specification's schemas: %w", err)
	}
	if err := os.CopyFS(filepath.Join(home, "schema"), os.DirFS(filepath.Join(strings.TrimSpace(string(spec)), "schema"))); err != nil {
		return err
	}
	for _, name := range bomSchemas {
		if err := copyFile(filepath.Join("..", "bom", "testdata", "schema", name), filepath.Join(home, "schema", name), 0o644); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := copyFile(self, filepath.Join(home, "cli.test"), 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(home, "testdata"), os.DirFS("testdata")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(home, "base"), 0o755); err != nil {
		return err
	}
	if err := busyboxTar(filepath.Join(home, "base", "busybox.tar")); err != nil {
		return err
	}
	for _, dir := range []string{"common", "tmp"} {
		if err := os.Mkdir(filepath.Join(home, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(home, "common"), 0o777); err != nil {
		return err
	}
	return filepath.WalkDir(home, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		return os.Chmod(p, info.Mode().Perm()|0o444|info.Mode().Perm()&0o100>>3|info.Mode().Perm()&0o100>>6)
	})
}

func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}

// busyboxTar makes a small root file system of Debian's busybox-static.
func busyboxTar(path string) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w: install busybox-static", err)
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dir := func(name string, mode int64) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
	}
	file := func(name, content string, mode int64) {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
		_, _ = io.WriteString(w, content)
	}
	for _, d := range []string{"bin", "etc", "usr", "usr/bin", "root", "var", "home"} {
		dir(d, 0o755)
	}
	dir("tmp", 0o1777)
	file("bin/busybox", string(busybox), 0o755)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777})
		}
	}
	file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n", 0o644)
	file("etc/group", "root:x:0:\ndaemon:x:1:\n", 0o644)
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func level() string {
	if l := os.Getenv(levelVariable); l != "" {
		return l
	}
	if os.Geteuid() == 0 {
		return "root"
	}
	return "subid"
}

func TestScripts(t *testing.T) {
	home := os.Getenv(homeVariable)
	files, err := filepath.Glob(filepath.Join(home, "testdata", "script", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s: %v", home, err)
	}
	var mine []string
	for _, f := range files {
		name := filepath.Base(f)
		other := strings.HasPrefix(name, "root-") && level() != "root" || strings.HasPrefix(name, "user-") && level() == "root"
		if !other {
			mine = append(mine, f)
		}
	}
	testscript.Run(t, testscript.Params{
		Files: mine,
		Setup: func(e *testscript.Env) error { return setup(e, home) },
		Condition: func(cond string) (bool, error) {
			if l, ok := strings.CutPrefix(cond, "level:"); ok {
				return l == level(), nil
			}
			if tool, ok := strings.CutPrefix(cond, "has:"); ok {
				_, err := exec.LookPath(tool)
				if err != nil && os.Getenv("CI") == "true" {
					return false, err
				}
				return err == nil, nil
			}
			if cond == "binfmt" { // this machine's kernel knows emulators already
				known, err := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-*")
				return len(known) > 0, err
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"attach":    cmdAttach,
			"config":    cmdConfig,
			"digest":    cmdDigest,
			"fault":     cmdFault,
			"foreign":   cmdForeign,
			"image":     cmdImage,
			"merged":    cmdMerged,
			"interrupt": cmdInterrupt,
			"llb":       cmdLLB,
			"mktar":     cmdTar,
			"poison":    cmdPoison,
			"push":      cmdPush,
			"referrers": cmdReferrers,
			"registry":  cmdRegistry,
			"requests":  cmdRequests,
			"schema":    cmdSchema,
			"serve":     cmdServe,
			"spoil":     cmdSpoil,
			"status":    cmdStatus,
			"tmpfs":     cmdTmpfs,
			"upstream":  cmdUpstream,
			"validate":  cmdValidate,
			"volume":    cmdVolume,
		},
	})
}

// setup gives each script a state directory and a home of its own, the base
// busybox.tar, and TOKEN: a number of seconds that no other script sleeps. After
// every script, whatever it did, no process and no mount may be left. COMMON is a
// directory that all levels share.
func setup(e *testscript.Env, home string) error {
	// What a script shows to other users: its own directory is closed to them. Sockets lie there
	// too, whose names have 107 bytes at most: that of TMPDIR may be long.
	shared, err := os.MkdirTemp("/tmp", "stacker-shared-")
	if err != nil {
		return err
	}
	if err := os.Chmod(shared, 0o777); err != nil {
		return err
	}
	e.Defer(func() { _ = os.RemoveAll(shared) })
	token := strconv.Itoa(os.Getpid()*1000 + int(scripts.Add(1)))
	e.Setenv("PATH", filepath.Join(home, "bin")+":"+os.Getenv("PATH"))
	e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, ".data"))
	e.Setenv("HOME", filepath.Join(e.WorkDir, ".home"))
	e.Setenv("LEVEL", level())
	e.Setenv("SHARED", shared)
	e.Setenv("COMMON", filepath.Join(home, "common"))
	e.Setenv("TOKEN", token)
	t, ok := e.T().(testing.TB)
	if !ok {
		return errors.New("the script's test is no testing.TB")
	}
	e.Values[worldKey{}] = &world{t: t}
	e.Defer(func() {
		if left := leftovers(e.WorkDir, token); len(left) > 0 {
			t.Errorf("left after the script:\n%s", strings.Join(left, "\n"))
		}
		// The files in the state directory belong to ids that only the program can act for.
		cmd := exec.Command(filepath.Join(home, "bin", "stacker"), "prune", "--all")
		cmd.Env = append([]string(nil), e.Vars...)
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stacker prune --all: %v\n%s", err, out)
		}
	})
	if err := copyFile(filepath.Join(home, "base", "busybox.tar"), filepath.Join(e.WorkDir, "busybox.tar"), 0o644); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(e.WorkDir, ".home"), 0o755)
}

// TestScriptsUser runs the scripts as a user with subordinate ids.
func TestScriptsUser(t *testing.T) { asUser(t, plainUser, "subid") }

// TestScriptsSingle runs the scripts as a user with one id only.
func TestScriptsSingle(t *testing.T) { asUser(t, singleUser, "single") }

func asUser(t *testing.T, name, level string) {
	t.Helper()
	if os.Geteuid() != 0 {
		need(t, "only root can become another user")
	}
	u := ensureUser(t, name, level == "subid")
	t.Parallel()
	home := os.Getenv(homeVariable)
	work, err := os.MkdirTemp("", "stacker-"+level+"-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	if err := os.Chown(work, u.uid, u.gid); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--reuid", strconv.Itoa(u.uid), "--regid", strconv.Itoa(u.gid), "--clear-groups", "--inh-caps=-all", "--bounding-set=+all",
		filepath.Join(home, "cli.test"), "-test.run", "^TestScripts$" + chosen(),
	}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command("setpriv", args...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "TMPDIR="+work, "HOME="+u.home, "USER="+name, levelVariable+"="+level)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("scripts as %s: %v\n%s", name, err, out)
	}
	t.Logf("scripts as %s:\n%s", name, out)
}

// chosen is the part of -run that chooses scripts, with its slash, so that
// -run 'TestScripts.*/name' runs one script as all users.
func chosen() string {
	_, script, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	if !ok {
		return ""
	}
	return "/" + script
}

// need fails in CI and skips elsewhere.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

type account struct {
	uid, gid int
	home     string
}

func ensureUser(t *testing.T, name string, subids bool) account {
	t.Helper()
	if _, err := user.Lookup(name); err != nil {
		args := []string{"--create-home", "--shell", "/bin/bash"}
		if !subids {
			args = append(args, "--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0")
		}
		if out, err := exec.Command("useradd", append(args, name)...).CombinedOutput(); err != nil {
			t.Fatalf("useradd %s: %v\n%s", name, err, out)
		}
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := os.ReadFile("/etc/subuid")
	if err != nil {
		t.Fatal(err)
	}
	if has := strings.Contains(string(ids), name+":"); has != subids {
		t.Fatalf("user %s has subordinate ids: %v, want %v: see /etc/subuid", name, has, subids)
	}
	return account{uid: uid, gid: gid, home: u.HomeDir}
}
