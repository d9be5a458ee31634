// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// The files of testdata/conformance say what each instruction of a Dockerfile and
// each of its flags does, one file for each. What is expected was written from the
// reference documentation of Dockerfiles. The comment of a file has lines
//
//	# text             what the instruction or flag is for
//	covers: NAME       as table conformanceItems has it
//	$ COMMAND          to run first, in the directory "context" of the case
//
// A section whose name has a slash is a file of that name. Any other is a case: a
// Dockerfile, a line "====", and what is expected:
//
//	flags FLAGS        of the build, which runs in the directory "context"
//	env NAME=VALUE     of the build
//	f MODE UID:GID PATH "CONTENT"    a file, for which the content may be left out
//	d MODE UID:GID PATH              a directory
//	l UID:GID PATH -> TARGET         a link
//	h PATH = FIRST                   another name of a file
//	- PATH                           what of the base is removed
//	config.NAME = VALUE              a field of the config document, as flatten has it
//	!TEXT                            no field of the config has this text
//	created TIME                     of the image
//	prints REGEXP, !prints REGEXP    what the build says, or does not
//	error TEXT         the build fails with this error, which begins with its place
//	                   in the Dockerfile; the line of that place follows
//	fails TEXT         the build fails with this error of no place
//	hint TEXT          with either: what is said at the end
//
// Where a case lists files these are all that the image has more than base, unless
// there is a line "...". In all lines, and in commands, $URL is a server of the files
// in $SERVE: hello.txt, dated.txt, and repo.git with the commit $COMMIT.

// conformanceItems are the instructions, flags and directives of Dockerfile 1.28.
var conformanceItems = []string{
	"FROM", "FROM AS", "FROM --platform", "FROM with a named context",
	"RUN", "RUN --mount=type=bind", "RUN --mount=type=cache", "RUN --mount=type=tmpfs", "RUN --mount=type=secret", "RUN --mount=type=ssh",
	"RUN --network", "RUN --security", "RUN --device",
	"COPY", "COPY --from", "COPY --chown", "COPY --chmod", "COPY --link", "COPY --parents", "COPY --exclude",
	"ADD", "ADD of archives", "ADD of URLs", "ADD of git repositories", "ADD --keep-git-dir", "ADD --checksum", "ADD --chown", "ADD --chmod",
	"ADD --link", "ADD --exclude", "ADD --unpack", "here-documents",
	"CMD", "ENTRYPOINT", "SHELL", "ENV", "LABEL", "MAINTAINER", "EXPOSE", "VOLUME", "USER", "WORKDIR", "STOPSIGNAL", "ONBUILD",
	"HEALTHCHECK", "HEALTHCHECK --interval", "HEALTHCHECK --timeout", "HEALTHCHECK --start-period", "HEALTHCHECK --start-interval", "HEALTHCHECK --retries",
	"ARG", "ARG before FROM", "predefined ARG", "platform ARG", "BUILDKIT_ arguments", "SOURCE_DATE_EPOCH", "variables",
	".dockerignore", "# syntax=", "# escape=", "# check=", "checks",
}

// conformanceFile is one file of testdata/conformance.
type conformanceFile struct {
	name, covers, about string
	setup               []string
	files               []txtar.File
	cases               []conformanceCase
}

// conformanceCase is one section of it.
type conformanceCase struct {
	name, dockerfile string
	flags, env       []string
	files            []string // sorted
	partial          bool
	config, absent   []string
	prints, silent   []string
	created          string
	err, hint        string
	placed, fails    bool
}

func readConformance(t *testing.T) []conformanceFile {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "conformance", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var out []conformanceFile
	for _, n := range names {
		a, err := txtar.ParseFile(n)
		if err != nil {
			t.Fatal(err)
		}
		f := conformanceFile{name: strings.TrimSuffix(filepath.Base(n), ".txtar")}
		for line := range strings.Lines(string(a.Comment)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch key {
			case "":
			case "#":
				f.about = strings.TrimSpace(f.about + " " + value)
			case "covers:":
				f.covers = value
			case "$":
				f.setup = append(f.setup, value)
			default:
				t.Fatalf("%s: line %q is of no known kind", n, line)
			}
		}
		for _, s := range a.Files {
			if strings.Contains(s.Name, "/") && !strings.Contains(string(s.Data), "\n====\n") {
				f.files = append(f.files, s)
				continue
			}
			c, err := parseConformanceCase(s)
			if err != nil {
				t.Fatalf("%s: case %q: %v", n, s.Name, err)
			}
			f.cases = append(f.cases, c)
		}
		out = append(out, f)
	}
	return out
}

func parseConformanceCase(s txtar.File) (c conformanceCase, err error) {
	c.name = s.Name
	var want string
	var ok bool
	if c.dockerfile, want, ok = strings.Cut(string(s.Data), "====\n"); !ok {
		return c, fmt.Errorf("there is no line ====")
	}
	for line := range strings.Lines(want) {
		line = strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(line, " ")
		switch {
		case line == "...":
			c.partial = true
		case key == "flags":
			c.flags = append(c.flags, strings.Fields(value)...)
		case key == "env":
			c.env = append(c.env, value)
		case len(key) == 1 && strings.Contains("fdlh-", key):
			c.files = append(c.files, line)
		case strings.HasPrefix(key, "config."):
			c.config = append(c.config, strings.TrimRight(line, " "))
		case key == "prints":
			c.prints = append(c.prints, value)
		case key == "!prints":
			c.silent = append(c.silent, value)
		case strings.HasPrefix(key, "!"):
			c.absent = append(c.absent, line[1:])
		case key == "created":
			c.created = value
		case key == "error":
			c.err, c.placed = value, true
		case key == "fails":
			c.err, c.fails = value, true
		case key == "hint":
			c.hint = value
		default:
			return c, fmt.Errorf("line %q is of no known kind", line)
		}
	}
	return c, nil
}

// everywhere tells whether the result can depend on who builds it and on how trees are
// kept: whether a file is made or a step runs. All other cases are built once.
func (c *conformanceCase) everywhere() bool {
	return len(c.files) > 0 || strings.Contains(c.dockerfile, "\nRUN ") && !c.placed
}

// mistake tells whether the case is a build that must fail, or one that must be
// warned of.
func (c *conformanceCase) mistake() bool { return c.placed || c.fails }

// TestConformance builds all cases as root and as a plain user, with overlays and
// without.
func TestConformance(t *testing.T) {
	files := readConformance(t)
	levels := []string{level()}
	if os.Geteuid() == 0 {
		levels = []string{"root", "subid"}
	}
	for _, l := range levels {
		w := newConformanceWorld(t, l, files)
		for _, storage := range []string{"overlay", "native"} {
			t.Run(l+"/"+storage, func(t *testing.T) {
				t.Parallel()
				w := w.with(t, storage)
				for i, f := range files {
					t.Run(f.name, func(t *testing.T) {
						t.Parallel()
						for j, c := range f.cases {
							if !c.everywhere() && (l != levels[0] || storage != "overlay") {
								continue
							}
							t.Run(c.name, func(t *testing.T) { w.check(t, f, c, tag(i, j)) })
						}
					})
				}
			})
		}
	}
}

// conformanceWorld is where the cases of one level are built.
type conformanceWorld struct {
	dir     string // has DIR/FILE/context for each file
	uid     int
	gid     int
	run     []string
	env     []string
	words   *strings.Replacer
	storage string
	layout  string
	base    conformanceBase
}

// newConformanceWorld makes the directories of all cases, and the server.
func newConformanceWorld(t *testing.T, level string, files []conformanceFile) *conformanceWorld {
	t.Helper()
	home := os.Getenv(homeVariable)
	dir, err := os.MkdirTemp("", "stacker-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &conformanceWorld{dir: dir, uid: os.Getuid(), gid: os.Getgid()}
	w.env = []string{"PATH=" + filepath.Join(home, "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	if level == "subid" && os.Geteuid() == 0 {
		u := ensureUser(t, plainUser, true)
		w.uid, w.gid = u.uid, u.gid
		if err := os.Chown(dir, u.uid, u.gid); err != nil {
			t.Fatal(err)
		}
		w.run = []string{"setpriv", "--reuid", strconv.Itoa(u.uid), "--regid", strconv.Itoa(u.gid), "--clear-groups", "--inh-caps=-all", "--bounding-set=+all"}
	}
	serve := filepath.Join(dir, "serve")
	s := httptest.NewServer(http.FileServer(http.Dir(serve)))
	t.Cleanup(s.Close)
	w.env = append(w.env, "SERVE="+serve)
	w.must(t, dir, conformanceServer)
	commit := w.must(t, dir, "git -C serve/repo.git rev-parse main")
	w.words = strings.NewReplacer("$URL", s.URL, "$COMMIT", strings.TrimSpace(commit))
	for i, f := range files {
		for _, x := range f.files {
			w.write(t, filepath.Join(f.name, x.Name), x.Data)
		}
		for j, c := range f.cases {
			w.write(t, filepath.Join(f.name, tag(i, j), "Dockerfile"), []byte(w.words.Replace(c.dockerfile)))
		}
		w.mkdir(t, filepath.Join(f.name, "context"))
		for _, cmd := range f.setup {
			w.must(t, filepath.Join(dir, f.name, "context"), cmd)
		}
	}
	return w
}

// tag names case j of file i.
func tag(i, j int) string { return fmt.Sprintf("c%d-%d", i, j) }

// conformanceServer makes what the server has.
const conformanceServer = `
umask 022
mkdir serve repo repo/sub
echo hello > serve/hello.txt
echo dated > serve/dated.txt
touch -d 2020-02-02T02:02:02Z serve/dated.txt
echo git > repo/a.txt
echo sub > repo/sub/b.txt
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE=2021-01-01T00:00:00Z GIT_COMMITTER_DATE=2021-01-01T00:00:00Z
git -C repo init -q -b main
git -C repo add .
git -C repo -c user.name=n -c user.email=e@example.com commit -q -m one
git -C repo tag v1
git clone -q --bare repo serve/repo.git
git -C serve/repo.git update-server-info
rm -r repo
`

// must runs a shell command as the user of the level.
func (w *conformanceWorld) must(t *testing.T, dir, text string) string {
	t.Helper()
	cmd := w.command(dir, "sh", "-ec", text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return string(out)
}

func (w *conformanceWorld) command(dir string, args ...string) *exec.Cmd {
	args = append(slices.Clone(w.run), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, slices.Clone(w.env)
	return cmd
}

// write makes a file, and the directories that it needs, for the user of the level.
func (w *conformanceWorld) write(t *testing.T, name string, data []byte) {
	t.Helper()
	w.mkdir(t, filepath.Dir(name))
	name = filepath.Join(w.dir, name)
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, w.uid, w.gid); err != nil {
		t.Fatal(err)
	}
}

func (w *conformanceWorld) mkdir(t *testing.T, name string) {
	t.Helper()
	p := w.dir
	for elem := range strings.SplitSeq(name, "/") {
		p = filepath.Join(p, elem)
		if err := os.Mkdir(p, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(p, w.uid, w.gid); err != nil {
			t.Fatal(err)
		}
	}
}

// conformanceBases are the images that cases start from, from the busybox image of
// the scripts.
var conformanceBases = map[string]string{
	"base": `FROM busybox
RUN echo app:x:1000:2000::/home/app:/bin/sh >> /etc/passwd && echo staff:x:50:app >> /etc/group
ENV PATH=/usr/bin:/bin
LABEL of=base
CMD ["sh"]
`,
	"multi":   "FROM scratch\nARG TARGETARCH\nCOPY <<arch /\n$TARGETARCH\narch\n",
	"onbuild": "FROM busybox\nONBUILD COPY a.txt /triggered\n",
}

// with makes the images that cases start from, in a state directory of its own.
func (w *conformanceWorld) with(t *testing.T, storage string) *conformanceWorld {
	t.Helper()
	out := *w
	out.storage, out.layout = storage, filepath.Join(w.dir, "layout-"+storage)
	out.env = append(slices.Clone(w.env), "XDG_DATA_HOME="+filepath.Join(w.dir, "data-"+storage))
	t.Cleanup(func() { out.must(t, w.dir, "stacker --storage-type "+storage+" prune --all") })
	out.must(t, w.dir, "stacker --storage-type "+storage+" import "+filepath.Join(os.Getenv(homeVariable), "base", "busybox.tar")+" busybox")
	for name, text := range conformanceBases {
		flags := ""
		if name == "multi" {
			flags = " --platform linux/amd64,linux/arm64"
		}
		out.write(t, filepath.Join(storage, name, "Dockerfile"), []byte(text))
		out.must(t, filepath.Join(w.dir, storage, name), "stacker --storage-type "+storage+" build -t "+name+flags+" .")
	}
	out.must(t, filepath.Join(w.dir, storage, "base"), "printf 'FROM base\n' | stacker --storage-type "+storage+" build -t oci:"+out.layout+":base -")
	out.base = readConformanceBase(t, out.layout, "base")
	return &out
}

// place matches what begins an error of a build file.
var place = regexp.MustCompile(`^Dockerfile:(\d+):\d+: `)

func (w *conformanceWorld) check(t *testing.T, f conformanceFile, c conformanceCase, tag string) {
	t.Helper()
	file := filepath.Join("..", tag, "Dockerfile")
	args := slices.Concat([]string{filepath.Join(os.Getenv(homeVariable), "bin", "stacker"), "--storage-type", w.storage, "build", "--progress", "plain", "-t", "oci:" + w.layout + ":" + tag, "-f", file}, c.flags, []string{"."})
	cmd := w.command(filepath.Join(w.dir, f.name, "context"), args...)
	cmd.Env = append(cmd.Env, c.env...)
	raw, err := cmd.CombinedOutput()
	out := strings.ReplaceAll(string(raw), file, "Dockerfile")
	if c.mistake() {
		w.failed(t, c, out, err)
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, p := range c.prints {
		if !regexp.MustCompile(w.words.Replace(p)).MatchString(out) {
			t.Errorf("%q is not in\n%s", p, out)
		}
	}
	for _, p := range c.silent {
		if regexp.MustCompile(p).MatchString(out) {
			t.Errorf("%q is in\n%s", p, out)
		}
	}
	if c.mistake() {
		return
	}
	image := readConformanceImage(t, w.layout, tag, w.base)
	c.compareFiles(t, image.files)
	c.compareConfig(t, image.config, w.words)
	if c.created != "" && image.created.Format(time.RFC3339) != c.created {
		t.Errorf("created %s, want %s", image.created.Format(time.RFC3339), c.created)
	}
}

// failed compares an error with the one expected.
func (w *conformanceWorld) failed(t *testing.T, c conformanceCase, out string, err error) {
	t.Helper()
	if err == nil {
		t.Fatalf("it is built, want error %q\n%s", c.err, out)
	}
	_, got, ok := strings.Cut("\n"+out, "\nerror: ")
	if !ok {
		got = "exit status " + strconv.Itoa(1)
	}
	got = strings.TrimSuffix(got, "\n")
	lines := strings.Split(got, "\n")
	hint, _ := strings.CutPrefix(lines[len(lines)-1], "  hint: ")
	if len(lines) == 1 || hint == lines[len(lines)-1] {
		hint = ""
	}
	if want := w.words.Replace(c.err); lines[0] != want || hint != w.words.Replace(c.hint) {
		t.Errorf("error %s\nhint %s\nwant\nerror %s\nhint %s", lines[0], hint, want, c.hint)
	}
	if !c.placed {
		return
	}
	m := place.FindStringSubmatch(got)
	if m == nil {
		t.Errorf("error %q does not begin with its place", got)
		return
	}
	n, _ := strconv.Atoi(m[1])
	source := strings.Split(w.words.Replace(c.dockerfile), "\n")
	if n > len(source) || len(lines) < 3 || !strings.HasPrefix(lines[1], fmt.Sprintf("  %d | %.60s", n, source[n-1])) {
		t.Errorf("error %q does not quote line %d of the Dockerfile", got, n)
	}
}

func (c *conformanceCase) compareFiles(t *testing.T, got []string) {
	t.Helper()
	if len(c.files) == 0 {
		return
	}
	for _, want := range c.files {
		i := slices.IndexFunc(got, func(g string) bool { return g == want || strings.HasPrefix(g, want+` "`) })
		if i < 0 {
			t.Errorf("missing: %s", want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, g := range got {
		if !c.partial {
			t.Errorf("not expected: %s", g)
		}
	}
	if t.Failed() {
		t.Logf("not expected:\n%s", strings.Join(got, "\n"))
	}
}

func (c *conformanceCase) compareConfig(t *testing.T, got []string, words *strings.Replacer) {
	t.Helper()
	for _, want := range c.config {
		want = words.Replace(want)
		if strings.HasSuffix(want, " =") { // empty fields are not among the lines
			if slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, want) }) {
				t.Errorf("not empty: %s", want)
			}
			continue
		}
		if !slices.Contains(got, want) {
			t.Errorf("missing: %s\nin\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, a := range c.absent {
		for _, g := range got {
			if strings.Contains(g, a) {
				t.Errorf("not expected: %s", g)
			}
		}
	}
}

// conformanceIndex is docs/conformance.md.
var conformanceIndex = filepath.Join("..", "..", "docs", "conformance.md")

// TestConformanceCovers wants at least three cases of each instruction and flag, one of
// them a mistake, and compares docs/conformance.md with what there is.
// STACKER_UPDATE=1 writes it.
func TestConformanceCovers(t *testing.T) {
	byItem := map[string]conformanceFile{}
	for _, f := range readConformance(t) {
		if !slices.Contains(conformanceItems, f.covers) || byItem[f.covers].name != "" {
			t.Errorf("%s covers %q, which is no item, or one that another file covers", f.name, f.covers)
		}
		byItem[f.covers] = f
	}
	var b strings.Builder
	all, wrong := 0, 0
	for _, item := range conformanceItems {
		f := byItem[item]
		mistakes := 0
		for _, c := range f.cases {
			if c.mistake() {
				mistakes++
			}
		}
		all, wrong = all+len(f.cases), wrong+mistakes
		if len(f.cases) < 3 || mistakes < 1 {
			t.Errorf("%s: %d cases, %d of them mistakes: want at least 3 and 1", item, len(f.cases), mistakes)
		}
		fmt.Fprintf(&b, "| `%s` | %s | [%s](../internal/cli/testdata/conformance/%s.txtar) | %d | %d |\n", item, f.about, f.name, f.name, len(f.cases), mistakes)
	}
	want := fmt.Sprintf(conformanceText, all, wrong) + b.String()
	if os.Getenv("STACKER_UPDATE") == "1" {
		if err := os.WriteFile(conformanceIndex, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(conformanceIndex)
	if err != nil || string(got) != want {
		t.Errorf("docs/conformance.md is not what testdata/conformance says: %v: run STACKER_UPDATE=1 go test ./internal/cli -run TestConformanceCovers", err)
	}
}

// conformanceText is what docs/conformance.md says above its table.
const conformanceText = `# What Dockerfiles do, by instruction and flag

Each instruction of Dockerfile 1.28, each of its flags and each directive has cases in a file of
[internal/cli/testdata/conformance](../internal/cli/testdata/conformance): a Dockerfile, and what it makes, after docker's reference
documentation. Mistakes are Dockerfiles that must be refused, with the error, whose words are this program's. There are %d cases; %d are mistakes. Those that make
files or run steps are built four times: as root and as a plain user, with overlays and without (` + "`--storage-type native`" + `). The
others are built once.

` + "`go test ./internal/cli -run 'TestConformance/root/overlay/copy-chmod'`" + ` builds those of one file. This page is made by
` + "`STACKER_UPDATE=1 go test ./internal/cli -run TestConformanceCovers`" + `.

| What | What for | Cases | Number | Mistakes |
|---|---|---|---|---|
`
