// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// The Dockerfiles of testdata/dockerfile are built by this program and by
// buildah, an implementation that shares no code with it. Files with their modes,
// owners, links, attributes and contents must be the same, and so must the
// config, and the history, but for names and times.
//
// An archive is a Dockerfile and its build context. Its comment has lines
//
//	# text             what is tested
//	$ COMMAND          to run in the build context first, for modes, links, archives
//	flags: FLAGS       of both builds
//	stacker: FLAGS     of only one of them
//	buildah: FLAGS
//	differs: NAME      a difference that is explained in table differences
//
// A difference that no explanation covers fails, and so does an explanation that
// covers nothing.

// difference is a kind of difference between the two that is as it should be.
type difference struct {
	name  string
	lines string // regular expression of the lines of difference that it covers
	text  string // as docs/dockerfile.md has it
}

// differences is mirrored in docs/dockerfile.md; [TestDifferencesDocumented] says
// whether it is.
var differences = []difference{
	{"add-chown", `^[-+]file /plain/`, "`ADD --chown` gives the files of an archive to that owner; buildah leaves them their own"},
	{"args-escaped", `^\+config.config.ArgsEscaped = true$`, "`CMD` and `ENTRYPOINT` set `ArgsEscaped`, as docker does"},
	{"author", `^[-+]history \d+: MAINTAINER`, "`MAINTAINER` is the author of the image, not of an entry of the history"},
	{"chmod-top", `^[-+]file /dir 5 `, "`COPY --chmod` of a directory is for the directory that it makes, too"},
	{"chown-bits", `^[-+]file /a 0 [06]755 1:2 `, "`COPY --chown` keeps set-user-id bits"},
	{"env-order", `^[-+]config.config.Env = `, "`ENV` of a variable that is there keeps its place in the list"},
	{"escape", "^[-+]file /c:", "a character that `# escape=` names is taken out of arguments of `COPY`"},
	{"exec-text", `^[-+]history \d+: RUN `, "the history has the words of `RUN [\"…\"]`; buildah writes the list behind `/bin/sh -c`"},
	{"inherited-args", `^[-+](history \d+: RUN |file /b )`, "an `ARG` of a stage is seen in stages that are `FROM` it"},
	{"label-history", `^-history \d+: LABEL `, "`--label` is in the config and not in the history"},
	{"later-names", `^[-+]file /(a|b|bin/another|bin/busybox) 0 `, "a name that `ln` gives a file of a lower layer is a name of the same file; buildah's storage without overlays copies it"},
	{"mount-text", `^[-+]history \d+: RUN `, "the history has the command of `RUN`, not its flags"},
	{"mounts", `^-file /(dev|proc|sys|run|etc/hosts|etc/hostname|etc/resolv.conf|place)[ /]`, "`RUN` leaves nothing of what it mounts: no `/dev`, `/proc`, `/sys`, `/run`, `/etc/hosts`, `/etc/resolv.conf`, nor directories for secrets"},
	{"onbuild-history", `^[-+]history \d+: (ONBUILD|RUN)`, "`ONBUILD` has no entry in the history"},
	{"port-ranges", `^[-+]config.config.ExposedPorts.9`, "`EXPOSE` of a range is its ports one by one"},
	{"run-args", `^[-+]history \d+: RUN \|`, "the history of `RUN` names all `ARG` that it sees, in the order of the file"},
	{"scratch-directory", `^\+config.config.WorkingDir = /$`, "an image `FROM scratch` has the working directory `/`"},
	{"shell-history", `^[-+](history \d+: RUN /bin/sh |config.config.Cmd = )`, "`CMD` and the history of `RUN` have the shell that `SHELL` named"},
	{"volume-run", `^\+file /data/y `, "what `RUN` writes below a `VOLUME` is kept"},
	{"workdir-layer", `^([-+]history \d+: WORKDIR|\+file (/made|/var/dir/w)[ /])`, "`WORKDIR` makes the directory in a layer of its own, and gives it to `USER`; buildah makes it when something runs"},
}

// dockerCase is one archive of testdata/dockerfile.
type dockerCase struct {
	setup                 []string
	flags, ours, theirs   []string
	differs               []string
	name, dir, dockerfile string
}

func readDockerCase(t *testing.T, file string) dockerCase {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := dockerCase{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), dir: t.TempDir()}
	for line := range strings.Lines(string(a.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "", "#":
		case "$":
			c.setup = append(c.setup, value)
		case "flags:":
			c.flags = append(c.flags, strings.Fields(value)...)
		case "stacker:":
			c.ours = append(c.ours, strings.Fields(value)...)
		case "buildah:":
			c.theirs = append(c.theirs, strings.Fields(value)...)
		case "differs:":
			c.differs = append(c.differs, strings.Fields(value)...)
		default:
			t.Fatalf("%s: line %q is of no known kind", file, line)
		}
	}
	for _, f := range a.Files {
		name := filepath.Join(c.dir, "context", f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range c.setup {
		mustRun(t, filepath.Join(c.dir, "context"), nil, "sh", "-ec", s)
	}
	return c
}

// mustRun runs a command in a directory.
func mustRun(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

// TestBuildah compares this program's images with buildah's.
func TestBuildah(t *testing.T) {
	if level() != "root" {
		need(t, "buildah makes images with owners only as root")
	}
	if _, err := exec.LookPath("buildah"); err != nil {
		need(t, "install buildah")
	}
	files, err := filepath.Glob(filepath.Join("testdata", "dockerfile", "*.txtar"))
	if err != nil || len(files) < 60 {
		t.Fatalf("there are %d Dockerfiles to compare, fewer than 60: %v", len(files), err)
	}
	t.Parallel()
	home := os.Getenv(homeVariable)
	stacker := filepath.Join(home, "bin", "stacker")
	dir := t.TempDir()
	env := []string{"XDG_DATA_HOME=" + filepath.Join(dir, "data"), "HOME=" + dir, "SOURCE_DATE_EPOCH=", "TMPDIR=" + dir}
	t.Cleanup(func() { mustRun(t, dir, env, stacker, "prune", "--all") })
	run, err := os.MkdirTemp("/tmp", "stacker-run-") // podman takes no name of more than 50 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	storage := []string{"--root", filepath.Join(dir, "storage"), "--runroot", run, "--storage-driver", "vfs"}
	mustRun(t, dir, env, stacker, "import", filepath.Join(home, "base", "busybox.tar"), "localhost/base:1", "-c", "ENV PATH=/usr/bin:/bin", "-c", `CMD ["sh"]`)
	mustRun(t, dir, env, stacker, "save", "--format", "oci", "-o", filepath.Join(dir, "base.tar"), "localhost/base:1")
	mustRun(t, dir, env, "buildah", append(slices.Clone(storage), "pull", "--quiet", "oci-archive:"+filepath.Join(dir, "base.tar"))...)
	used := map[string]bool{}
	for _, file := range files {
		c := dockerCaseName(file)
		for _, d := range declared(t, file) {
			used[d] = true
		}
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			c := readDockerCase(t, file)
			context := filepath.Join(c.dir, "context")
			ours := slices.Concat([]string{"build", "--progress", "plain", "-t", "oci:" + filepath.Join(c.dir, "ours") + ":v1"}, c.flags, c.ours, []string{"."})
			if inspected.MatchString(c.name) {
				ours = append(ours, "-o", "type=docker,dest="+filepath.Join(c.dir, "ours.tar"))
			}
			mustRun(t, context, env, stacker, ours...)
			theirs := filepath.Join(c.dir, "theirs")
			mustRun(t, context, env, "buildah", slices.Concat(storage, []string{
				"build", "--layers", "--no-cache", "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "docker", "--identity-label=false", "-t", "dir:" + theirs,
			}, c.flags, c.theirs, []string{"."})...)
			compare(t, c, describeDirectory(t, theirs), describeLayout(t, filepath.Join(c.dir, "ours")))
			if inspected.MatchString(c.name) {
				inspect(t, c, append(slices.Clone(storage), "image"))
			}
		})
	}
	for _, d := range differences {
		if !used[d.name] {
			t.Errorf("no Dockerfile of testdata/dockerfile shows difference %q", d.name)
		}
	}
}

func dockerCaseName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txtar") }

// declared gives the differences that an archive declares.
func declared(t *testing.T, file string) []string {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(a.Comment)) {
		if v, ok := strings.CutPrefix(line, "differs:"); ok {
			out = append(out, strings.Fields(v)...)
		}
	}
	return out
}

// compare reports lines that only one of two descriptions has and nothing explains,
// and explanations of nothing.
func compare(t *testing.T, c dockerCase, theirs, ours []string) {
	t.Helper()
	covers := unexplained(t, c, theirs, ours)
	for _, name := range c.differs {
		if !covers[name] {
			t.Errorf("difference %q is declared and not there", name)
		}
	}
}

// unexplained reports lines that only one of two descriptions has and nothing
// explains. It gives the differences that explain others.
func unexplained(t *testing.T, c dockerCase, theirs, ours []string) (covers map[string]bool) {
	t.Helper()
	var lines []string
	for _, l := range theirs {
		if !slices.Contains(ours, l) {
			lines = append(lines, "-"+l)
		}
	}
	for _, l := range ours {
		if !slices.Contains(theirs, l) {
			lines = append(lines, "+"+l)
		}
	}
	covers = map[string]bool{}
	for _, l := range lines {
		explained := false
		for _, name := range c.differs {
			i := slices.IndexFunc(differences, func(d difference) bool { return d.name == name })
			if i < 0 {
				t.Fatalf("difference %q is in no table", name)
			}
			if regexp.MustCompile(differences[i].lines).MatchString(l) {
				covers[name], explained = true, true
			}
		}
		if !explained {
			t.Errorf("- buildah, + stacker: %s", l)
		}
	}
	return covers
}

// TestDifferencesDocumented compares table differences with docs/dockerfile.md.
func TestDifferencesDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "dockerfile.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences {
		if row := fmt.Sprintf("| `%s` | %s |\n", d.name, d.text); !strings.Contains(string(doc), row) {
			t.Errorf("docs/dockerfile.md has no line\n%s", row)
		}
	}
}
