// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what is compared: the table of TestLevelsPosture")

// postureColumn is a level, and where it is looked at: as a user of this machine, or in a box.
type postureColumn struct {
	title string
	user  string // of this machine
	box   *box
	level string // asked for; empty: what there is
}

// TestLevelsPosture runs docs/posture.yaml at every level. What it finds is the table in
// docs/unprivileged.md.
func TestLevelsPosture(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "only root can make every kind of container")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		need(t, "install runc")
	}
	columns := []postureColumn{
		{title: "`root`", user: "root"},
		{title: "`subid`", user: plainUser},
		{title: "`single`", user: singleUser},
		{title: "`root` in a pod with a user namespace", box: &box{userns: true, caps: dockerCaps}},
		{title: "`chroot` in docker's container", box: &box{caps: dockerCaps, seccomp: dockerSeccomp(t, dockerCaps)}},
		{title: "`vroot` in the same, as a user", box: &box{uid: 1000, noNew: true, seccomp: dockerSeccomp(t, nil)}},
	}
	file, err := os.ReadFile("../../docs/posture.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(file), "- /bin/busybox", "- busybox", 1)
	image := stackerImage(t, "stacker.yaml")
	titles, rows, cells := []string{""}, []string{}, map[string][]string{}
	for i, c := range columns {
		titles = append(titles, c.title)
		for line := range strings.Lines(c.run(t, image, text)) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), " |")
			if !ok {
				continue
			}
			if i == 0 {
				rows = append(rows, name)
			}
			cells[name] = append(cells[name], strings.TrimSpace(value))
		}
	}
	var table strings.Builder
	writeRow(&table, titles)
	table.WriteString(strings.Repeat("|---", len(titles)) + "|\n")
	for _, name := range rows {
		writeRow(&table, append([]string{name}, cells[name]...))
	}
	comparePart(t, "../../docs/unprivileged.md", "posture", table.String())
}

func writeRow(w *strings.Builder, cells []string) {
	w.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// run builds the file, and gives what its step wrote.
func (c postureColumn) run(t *testing.T, image, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stacker-posture-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := copyFile("/bin/busybox", filepath.Join(dir, "busybox"), 0o755); err != nil {
		need(t, "install busybox-static: "+err.Error())
	}
	args := []string{"build", "--progress", "plain"}
	if c.level != "" {
		args = append([]string{"--level", c.level}, args...)
	}
	if c.box != nil {
		out, err := boxed(t, image, *c.box, dir, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.title, err, out)
		}
		return out
	}
	uid, gid := "0", "0"
	if c.user != "root" {
		u := ensureUser(t, c.user, c.user == plainUser)
		uid, gid = strconv.Itoa(u.uid), strconv.Itoa(u.gid)
		if err := os.Chown(dir, u.uid, u.gid); err != nil {
			t.Fatal(err)
		}
	}
	ids := []string{"--reuid", uid, "--regid", gid, "--clear-groups", filepath.Join(os.Getenv(homeVariable), "bin", "stacker")}
	cmd := exec.Command("setpriv", append(ids, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "USER="+c.user, "XDG_DATA_HOME="+filepath.Join(dir, "data"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c.title, err, out)
	}
	prune := exec.Command("setpriv", append(ids, "prune", "--all")...)
	prune.Dir, prune.Env = cmd.Dir, cmd.Env
	if out, err := prune.CombinedOutput(); err != nil {
		t.Errorf("%s: prune: %v\n%s", c.title, err, out)
	}
	return string(out)
}

// comparePart compares the part of a document between the comments "<!-- NAME" and
// "<!-- end of NAME -->"; with -update it writes it.
func comparePart(t *testing.T, file, name, want string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(data), "<!-- "+name)
	head, rest, ok2 := strings.Cut(rest, "-->\n")
	got, after, ok3 := strings.Cut(rest, "<!-- end of "+name)
	if !ok1 || !ok2 || !ok3 {
		t.Fatalf("%s has no part %s", file, name)
	}
	if got == want {
		return
	}
	if !*update {
		t.Errorf("%s, part %s: %s\nif that is right, run the test with -update", file, name, firstDifference(got, want))
		return
	}
	if err := os.WriteFile(file, []byte(before+"<!-- "+name+head+"-->\n"+want+"<!-- end of "+name+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
