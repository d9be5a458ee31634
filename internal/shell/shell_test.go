// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// appletEnv makes the test binary, started again under the name of an applet, be that applet.
const appletEnv = "STACKER_TEST_APPLET"

func TestMain(m *testing.M) {
	if os.Getenv(appletEnv) != "" {
		os.Exit(Main(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// runSh runs sh with args in dir, with no program on PATH.
func runSh(t *testing.T, dir, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &proc{
		name: "sh", in: strings.NewReader(stdin), out: &out, err: &errs, dir: dir,
		environ: []string{"PATH=/nowhere", "TZ=UTC", "HOME=/", "LC_ALL=C"},
	}
	status = p.sh(t.Context(), args)
	return out.String(), errs.String(), status
}

// TestScripts runs scripts here and, where there is one, in the system's dash with the system's
// utilities: standard output and status must be the same, and as stated.
func TestScripts(t *testing.T) {
	tests := []struct {
		name, script, want string
		status             int
	}{
		{"variables", `a=1; b="$a 2"; echo "$b" ${c:-default} ${#b} ${b%2}x`, "1 2 default 3 1 x\n", 0},
		{"arithmetic", `echo $((2+3*4)) $((7/2)) $((1<<4))`, "14 3 16\n", 0},
		{"loop", `for i in a b c; do echo $i; done; i=0; while [ $i -lt 2 ]; do i=$((i+1)); done; echo $i`, "a\nb\nc\n2\n", 0},
		{"case", `case foo.tar.gz in *.tar) echo no;; *.gz) echo yes;; esac`, "yes\n", 0},
		{"function", `f() { local x=in; echo "$x $1 $#"; return 4; }; f a b; echo $?`, "in a 2\n4\n", 0},
		{"heredoc", "x=1; cat <<EOF\nv $x\nEOF\ncat <<'EOF'\nv $x\nEOF", "v 1\nv $x\n", 0},
		{"errexit", `set -e; echo a; false; echo b`, "a\n", 1},
		{"errexit in condition", `set -e; if false; then :; fi; false || true; ! true; echo end`, "end\n", 0},
		{"errexit in function", `set -e; f() { false; echo no; }; f`, "", 1},
		{"errexit in subshell", `set -e; (exit 5); echo no`, "", 5},
		{"exit in pipe", `false | true; echo $?; true | false; echo $?`, "0\n1\n", 0},
		{"not found", `nosuchcommand 2>/dev/null; echo $?`, "127\n", 0},
		{"not executable", `echo x >f; ./f 2>/dev/null; echo $?`, "126\n", 0},
		{"and or", `true && echo a || echo b; false && echo a || echo b`, "a\nb\n", 0},
		{"trap", `trap 'echo bye' EXIT; echo hi; exit 3`, "hi\nbye\n", 3},
		{"subshell directory", `mkdir d; (cd d; touch f; pwd | grep -c /d$); ls`, "1\nd\n", 0},
		{"command substitution", `echo "$(echo a; echo b)" $(printf '%s-' 1 2 3)`, "a\nb 1-2-3-\n", 0},
		{"redirections", `echo out; { echo err >&2; echo o; } 2>e >o; cat e o; echo x >>o; wc -l <o`, "out\nerr\no\n2\n", 0},
		{"globs", `touch a.c b.c d.h; echo *.c; echo [ab].c; echo *.x`, "a.c b.c\na.c b.c\n*.x\n", 0},
		{"read", `printf 'a b\nc d\n' | while read x y; do echo "$y$x"; done`, "ba\ndc\n", 0},
		{"positional", `set -- a "b c"; shift; echo "$1" $#; for x; do echo "$x"; done`, "b c 1\nb c\n", 0},
		{"background", `echo a >f & wait; cat f`, "a\n", 0},
		{"umask", `umask 027; touch f; mkdir d; ls -l | cut -c1-10 | grep -v total`, "drwxr-x---\n-rw-r-----\n", 0},

		{"mkdir cp mv rm", `mkdir -p a/b; echo 1 >a/b/f; cp -r a c; mv c/b/f g; cat g; rm -rf a; ls; test -e a || echo gone`, "1\nc\ng\ngone\n", 0},
		{"cp archive", `mkdir s; echo x >s/f; ln -s f s/l; chmod 750 s/f; cp -a s d; ls -l d/f | cut -c1-10; readlink d/l`, "-rwxr-x---\nf\n", 0},
		{"cp into and over", `mkdir d; echo 1 >a; echo 2 >b; cp a b d; cat d/b; cp a d/b; cat d/b`, "2\n1\n", 0},
		{"cp of itself", `echo 1 >a; cp a a 2>/dev/null; echo $?; cat a`, "1\n1\n", 0},
		{"cp directory without r", `mkdir a; cp a b 2>/dev/null; echo $?`, "1\n", 0},
		{"rm missing", `rm x 2>/dev/null; echo $?; rm -f x; echo $?; mkdir d; rm d 2>/dev/null; echo $?`, "1\n0\n1\n", 0},
		{"chmod", `touch f; for m in 4755 u=rw,g=r,o= a+x go-x u+s +t; do chmod $m f; ls -l f | cut -c1-10; done`,
			"-rwsr-xr-x\n-rw-r-----\n-rwxr-x--x\n-rwxr-----\n-rwsr-----\n-rwsr----T\n", 0},
		{"chmod recursive X", `mkdir -p d; touch d/f; chmod 700 d; chmod 600 d/f; chmod -R a+rX d; ls -ld d d/f | cut -c1-10`, "drwxr-xr-x\n-rw-r--r--\n", 0},
		{"ln", `echo 1 >a; ln a b; ln -s a c; ln -sf b c; readlink c; cat b c; ls c`, "b\n1\n1\nc\n", 0},
		{"install", `echo 1 >a; install -D -m 640 a x/y; ls -l x/y | cut -c1-10; install -d p/q; test -d p/q; echo $?`, "-rw-r-----\n0\n", 0},
		{"find", `mkdir -p d/e; touch d/a.c d/e/b.c d/e/x.h; find d -name '*.c' | sort; find d -type d | sort; find d -maxdepth 1 -type f; find d ! -name '*.c' -type f`,
			"d/a.c\nd/e/b.c\nd\nd/e\nd/a.c\nd/e/x.h\n", 0},
		{"find exec", `mkdir d; echo 1 >d/a; echo 2 >d/b; find d -type f -exec cat {} + | sort; find d -name a -exec echo got {} \;; find d -delete; test -e d || echo gone`,
			"1\n2\ngot d/a\ngone\n", 0},
		{"xargs", `printf 'a b\nc "d e"\n' | xargs -n 1 echo -; printf 'x\ny\n' | xargs -I% echo [%]; printf 'p\0q r\0' | xargs -0 -n1 echo`,
			"- a\n- b\n- c\n- d e\n[x]\n[y]\np\nq r\n", 0},
		{"xargs status", `echo a | xargs false; echo $?; echo a | xargs nosuchcommand 2>/dev/null; echo $?`, "123\n127\n", 0},
		{"env", `export A=1; env -i B=2 env; env -u A env | grep -c ^A=; A=3 env | grep ^A=`, "B=2\n0\nA=3\n", 0},
		{"grep", `printf 'foo\nbar\nfoobar\n' >f; grep -c foo f; grep -v foo f; grep -E '^(foo|bar)$' f; grep -q zzz f; echo $?; grep -n BAR -i f; grep 'o\{2\}b' f; grep -o o+ f; echo $?`,
			"2\nbar\nfoo\nbar\n1\n2:bar\n3:foobar\nfoobar\n1\n", 0},
		{"grep files", `mkdir d; echo x >d/a; echo y >d/b; grep -rl x d; grep -h x d/a d/b; grep x d/a d/b; grep x none 2>/dev/null; echo $?`, "d/a\nx\nd/a:x\n2\n", 0},
		{"head tail", `printf '1\n2\n3\n4\n' >f; head -n 2 f; tail -n 1 f; tail -n +3 f; head -1 f; head -c 3 f; tail -c 2 f`, "1\n2\n4\n3\n4\n1\n1\n24\n", 0},
		{"cut", `echo a:b:c | cut -d: -f1,3; echo abcdef | cut -c2-4; echo a:b:c | cut -d: -f2-; echo none | cut -d: -f2`, "a:c\nbcd\nb:c\nnone\n", 0},
		{"tr", `echo hello | tr a-z A-Z; echo aabb | tr -s ab; echo a1b2 | tr -d 0-9; echo 'a b' | tr ' ' '\n'; echo x1y | tr -cd '[:digit:]'`, "HELLO\nab\nab\na\nb\n1", 0},
		{"sort uniq", `printf '10\n9\nb\na\na\n' >f; sort f; sort -n f | head -n 1; sort -r f | head -n 1; sort -u f | wc -l; sort f | uniq -d; printf 'x 2\ny 1\n' | sort -k2`,
			"10\n9\na\na\nb\na\nb\n4\na\ny 1\nx 2\n", 0},
		{"wc", `printf 'a b\nc\n' >f; wc -l f; wc -w <f; wc -c <f`, "2 f\n3\n6\n", 0},
		{"tee", `echo a | tee f g; echo b | tee -a f; cat f`, "a\nb\na\nb\n", 0},
		{"names", `basename /a/b.c .c; basename /; dirname /a/b; dirname a; dirname /a; dirname a/b/`, "b\n/\n/a\n.\n/\na\n", 0},
		{"date", `date -u -d @86400 +%Y-%m-%dT%H:%M:%S%z%%; date -u -d 2024-02-29 +%s`, "1970-01-02T00:00:00+0000%\n1709164800\n", 0},
		{"sha256", `printf a >f; sha256sum f | tee s; sha256sum -c s; printf b >f; sha256sum -c s 2>/dev/null; echo $?`,
			"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  f\nf: OK\nf: FAILED\n1\n", 0},
		{"gzip", `echo a >f; gzip f; ls; gunzip f.gz; cat f; gzip -c f | gzip -d; echo b | gzip | zcat`, "f.gz\na\na\nb\n", 0},
		{"base64", `echo hello | base64; echo aGVsbG8K | base64 -d`, "aGVsbG8K\nhello\n", 0},
		{"tar", `mkdir -p d/e; echo 1 >d/e/f; ln -s f d/e/l; tar -czf a.tgz d; tar tzf a.tgz | sort; mkdir x; tar xf a.tgz -C x --strip-components=1; cat x/e/l; tar -xOf a.tgz d/e/f`,
			"d/\nd/e/\nd/e/f\nd/e/l\n1\n1\n", 0},
		{"mktemp", `f=$(mktemp -p . ab.XXXXXX); test -f "$f"; echo $?; d=$(mktemp -d ./q.XXX); test -d "$d"; echo $?`, "0\n0\n", 0},
		{"touch", `touch -d '2020-01-02 03:04:05' f; date -u +%Y -d @0; touch g; find . -newer f -type f; touch -c h; ls`, "1970\n./g\nf\ng\n", 0},
		{"test", `[ a = a ] && echo 1; [ ! -e x ] && echo 2; [ -n "" ] || echo 3; test 3 -gt 2 -a -d . && echo 4`, "1\n2\n3\n4\n", 0},
		{"reader goes away", `i=0; while [ $i -lt 17 ]; do echo $i$i$i$i >>f; cat f f >g; mv g f; i=$((i+1)); done; cat f | head -n 1; echo $?`, "0000\n0\n", 0},
		{"option unknown", `mkdir -Q x 2>/dev/null; echo $?`, "1\n", 0},
	}
	dash, dashErr := exec.LookPath("dash")
	if dashErr != nil && os.Getenv("CI") == "true" {
		t.Fatalf("nothing to compare with: %v", dashErr)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.script, "umask") {
				stdoutOfChild(t, tt.script, tt.want)
				return
			}
			out, errs, status := runSh(t, t.TempDir(), "", "-c", tt.script)
			if out != tt.want || status != tt.status {
				t.Errorf("got %q, status %d, want %q, status %d; stderr: %s", out, status, tt.want, tt.status, errs)
			}
			if dashErr != nil {
				return
			}
			cmd := exec.Command(dash, "-c", tt.script)
			cmd.Dir = t.TempDir()
			cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "TZ=UTC", "LC_ALL=C", "HOME=/"}
			got, err := cmd.Output()
			if string(got) != tt.want || exitCode(err) != tt.status {
				t.Errorf("dash: got %q, status %d, want %q, status %d", got, exitCode(err), tt.want, tt.status)
			}
		})
	}
}

// stdoutOfChild runs a script in a process of its own, since it changes the process.
func stdoutOfChild(t *testing.T, script, want string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-c", script)
	cmd.Args[0] = "sh"
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=/nowhere", appletEnv + "=1"}
	got, err := cmd.Output()
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func TestInvocation(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s.sh"), []byte("echo \"$0\" \"$@\"\nexit 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args           []string
		stdin          string
		stdout, stderr string
		status         int
	}{
		{[]string{"-xe", "-c", "echo a; ls -d .; false; echo c"}, "", "a\n.\n", "+ echo a\n+ ls -d .\n+ false\n", 1},
		{[]string{"-exc", "true"}, "", "", "+ true\n", 0},
		{[]string{"-c", `echo "$0" "$@"`, "name", "x", "y z"}, "", "name x y z\n", "", 0},
		{[]string{"-c", `echo $0 $#`}, "", "sh 0\n", "", 0},
		{[]string{"s.sh", "p"}, "", "s.sh p\n", "", 7},
		{nil, "echo from stdin; exit 4", "from stdin\n", "", 4},
		{[]string{"-s", "p"}, "echo $1", "p\n", "", 0},
		{[]string{"-c", "foo"}, "", "", "sh: foo: not found\n", 127},
		{[]string{"-c", "./foo"}, "", "", "sh: ./foo: not found\n", 127},
		{[]string{"-c", "/tmp"}, "", "", "sh: /tmp: Permission denied\n", 126},
		{[]string{"-u", "-c", "echo $nope; echo no"}, "", "", "nope: unbound variable\n", 1},
		{[]string{"none.sh"}, "", "", "sh: cannot open none.sh: No such file\n", 2},
		{[]string{"-c"}, "", "", "sh: -c requires an argument\n", 2},
		{[]string{"-Z"}, "", "", "sh: illegal option -Z\n", 2},
		{[]string{"-c", "if"}, "", "", "sh: sh:1:1: `if` must be followed by a statement list\n", 2},
		{[]string{"-c", "cat none; rm none"}, "", "", "cat: none: No such file or directory\nrm: cannot remove 'none': No such file or directory\n", 1},
		{[]string{"-c", "kill -NOPE 1"}, "", "", "kill: unknown signal -NOPE\n", 1},
	}
	for _, tt := range tests {
		stdout, stderr, status := runSh(t, dir, tt.stdin, tt.args...)
		if stdout != tt.stdout || stderr != tt.stderr || status != tt.status {
			t.Errorf("sh %q: got %q, %q, status %d, want %q, %q, status %d",
				tt.args, stdout, stderr, status, tt.stdout, tt.stderr, tt.status)
		}
	}
}

// TestLinks starts applets as programs: through links on PATH, by programs that know nothing
// of this package, and as the interpreter of a script.
func TestLinks(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range Names() {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "script"), []byte("#!"+bin+"/sh -e\nprintf '%s,' \"$@\"; false; echo no\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args   []string
		want   string
		status int
	}{
		{[]string{"echo", "a", "b"}, "a b\n", 0},
		{[]string{"printf", "%s-", "x", "y"}, "x-y-", 0},
		{[]string{"[", "a", "=", "b", "]"}, "", 1},
		{[]string{"test", "-d", "/"}, "", 0},
		{[]string{"false"}, "", 1},
		{[]string{"env", "-i", appletEnv + "=1", "PATH=" + bin, "sh", "-c", "echo $PATH | wc -l"}, "1\n", 0},
		{[]string{"find", "script", "-exec", "basename", "{}", ";"}, "script\n", 0},
		{[]string{"sh", "-c", "script a b; echo $?"}, "a,b,1\n", 0},
		{[]string{"sh", "-c", "sh -c 'kill -9 $$'; echo $?"}, "137\n", 0},
		{[]string{"sh", "-c", "sh -c 'exit 9'"}, "", 9},
	}
	for _, tt := range tests {
		cmd := exec.Command(filepath.Join(bin, tt.args[0]), tt.args[1:]...)
		cmd.Dir = bin
		cmd.Env = []string{"PATH=" + bin, appletEnv + "=1"}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		got, err := cmd.Output()
		if string(got) != tt.want || exitCode(err) != tt.status {
			t.Errorf("%q: got %q, status %d, want %q, status %d; stderr: %s", tt.args, got, exitCode(err), tt.want, tt.status, &errs)
		}
	}
}

func TestNames(t *testing.T) {
	names := Names()
	if names[0] != "sh" || !slices.IsSorted(names[1:]) {
		t.Errorf("names are not sh and then sorted: %q", names)
	}
	var errs bytes.Buffer
	if got := Main(t.Context(), []string{"/x/nope"}, nil, nil, &errs); got != 127 || errs.String() != "nope: not found\n" {
		t.Errorf("unknown applet: got %d, %q", got, &errs)
	}
}

// TestTarStaysInside unpacks archives that lead out of the target.
func TestTarStaysInside(t *testing.T) {
	dir := t.TempDir()
	out, errs, _ := runSh(t, dir, "", "-c", `
mkdir in evil; cd evil; ln -s .. up; tar -cf ../a.tar up; rm up; mkdir up; echo bad >up/escaped
tar -cf ../b.tar up/escaped; cd ../in; tar -xf ../a.tar; tar -xf ../b.tar; cd ..; find . -name escaped`)
	if want := "./evil/up/escaped\n"; out != want {
		t.Errorf("got %q, want %q; stderr: %s", out, want, errs)
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("u+x,go-w")
	f.Add("1,3-5,7-")
	f.Add(`a "b c" \d`)
	f.Add(`[[:alpha:]a-z\n\012]`)
	f.Add(`\(a\|b\)*[x\]`)
	f.Add("-abc --name=v -n5 -- x")
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = changeMode(0o644, false, s)
		_, _ = cutRanges(s)
		_, _ = quotedWords(s)
		if len(s) < 64 {
			_ = trSet(s)
		}
		_, _ = grepPattern([]string{s}, flags{})
		_, _ = parseFlags(strings.Fields(s), "+abn:", "name=n")
		_, _ = parseShArgs(strings.Fields(s))
	})
}
