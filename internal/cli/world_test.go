// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/registry/registrytest"
)

// world is what a script has outside of its directory.
type world struct {
	t        testing.TB
	registry *registrytest.Server
	stop     func() // what upstream started
	mu       sync.Mutex
	requests []string // to the file server
}

type worldKey struct{}

// hang is the path of a file that never comes.
const hang = "/hang"

// hangs tells whether somebody waits for the file that never comes.
func (w *world) hangs() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.requests, func(r string) bool { return strings.HasSuffix(r, hang) })
}

func worldOf(ts *testscript.TestScript) *world {
	w, ok := ts.Value(worldKey{}).(*world)
	if !ok {
		ts.Fatalf("no world")
	}
	return w
}

// patience is how long to wait for what must come soon, on a busy machine too.
const patience = 5 * time.Minute

// cmdRegistry starts an empty registry and sets REGISTRY to its host and port:
// registry [USER PASSWORD].
func cmdRegistry(ts *testscript.TestScript, _ bool, args []string) {
	w, o := worldOf(ts), registrytest.Options{DeleteTags: true}
	if len(args) == 2 {
		o.Auth, o.Username, o.Password = registrytest.Basic, args[0], args[1]
	}
	w.registry = registrytest.New(w.t, o)
	ts.Setenv("REGISTRY", w.registry.Host())
}

// listening is what docker-registry says when it can be asked.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// cmdUpstream starts Debian's docker-registry and sets REGISTRY to its host and port,
// or stops it: upstream [stop].
func cmdUpstream(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if len(args) > 0 {
		w.stop()
		occupy(ts, ts.Getenv("REGISTRY"))
		return
	}
	config, log := ts.MkAbs("registry.yml"), ts.MkAbs("registry.log")
	// The kernel chooses the port, so that nobody can take it before; the log says which it is.
	text := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp:\n  addr: 127.0.0.1:0\n", ts.MkAbs("registry.data"))
	ts.Check(os.WriteFile(config, []byte(text), 0o600))
	out, err := os.Create(log)
	ts.Check(err)
	defer out.Close()
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	ts.Defer(w.stop)
	var address string
	ts.Check(wait(func() bool {
		said, err := os.ReadFile(log)
		ts.Check(err)
		if m := listening.FindSubmatch(said); m != nil {
			address = string(m[1])
		}
		return address != ""
	}, ended))
	ts.Setenv("REGISTRY", address)
}

// occupy keeps others from listening at an address until the script's end.
func occupy(ts *testscript.TestScript, address string) {
	at, err := netip.ParseAddrPort(address)
	ts.Check(err)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	ts.Check(err)
	ts.Defer(func() { _ = syscall.Close(fd) })
	ts.Check(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)) // connections from before linger
	ts.Check(syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
}

// cmdFault makes the registry answer requests whose method and path have a text with
// a status; alone it ends all faults: fault [TEXT STATUS].
func cmdFault(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	if len(args) != 2 {
		w.registry.ClearFaults()
		return
	}
	code, err := strconv.Atoi(args[1])
	ts.Check(err)
	w.registry.Inject(registrytest.Fault{
		Match:  func(r *http.Request) bool { return strings.Contains(r.Method+" "+r.URL.Path, args[0]) },
		Answer: func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { rw.WriteHeader(code) },
	})
}

// cmdPoison gives every tag of a repository the manifest of another one: poison REPOSITORY.
func cmdPoison(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: poison REPOSITORY")
	}
	s := worldOf(ts).registry
	tags := s.Tags(args[0])
	if len(tags) < 2 {
		ts.Fatalf("%s has the tags %q, want two", args[0], tags)
	}
	first, _, _ := s.Manifest(args[0], tags[0])
	for i, tag := range tags {
		data, mediaType := first, ocispec.MediaTypeImageManifest
		if i+1 < len(tags) {
			data, mediaType, _ = s.Manifest(args[0], tags[i+1])
		}
		s.PutManifest(args[0], tag, mediaType, data)
	}
}

// cmdAttach makes a referrer of an image in the registry: attach REPOSITORY:TAG TEXT.
func cmdAttach(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: attach REPOSITORY:TAG TEXT")
	}
	s := worldOf(ts).registry
	repo, tag, _ := strings.Cut(args[0], ":")
	data, mediaType, ok := s.Manifest(repo, tag)
	if !ok {
		ts.Fatalf("no image %s", args[0])
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "text/plain",
		Config: s.PutBlob(repo, []byte("{}")), Layers: []ocispec.Descriptor{s.PutBlob(repo, []byte(args[1]))},
		Subject: &ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}}
	m.SchemaVersion = 2
	raw, err := image.Marshal(m)
	ts.Check(err)
	d := s.PutManifest(repo, "", m.MediaType, raw)
	d.ArtifactType = m.ArtifactType
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
	idx.SchemaVersion = 2
	raw, err = image.Marshal(idx)
	ts.Check(err)
	s.PutManifest(repo, "sha256-"+m.Subject.Digest.Encoded(), idx.MediaType, raw)
}

// cmdPush puts a tag of a layout into the registry: push LAYOUT TAG REPOSITORY:TAG.
func cmdPush(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: push LAYOUT TAG REPOSITORY:TAG")
	}
	repo, tag, _ := strings.Cut(args[2], ":")
	l, m, config := load(ts, args[0], args[1])
	defer l.Close()
	s := worldOf(ts).registry
	s.PutBlob(repo, config)
	for _, d := range m.Layers {
		data, err := l.Blobs().ReadAll(context.Background(), d, 1<<30)
		ts.Check(err)
		s.PutBlob(repo, data)
	}
	d, err := l.Resolve(context.Background(), args[1])
	ts.Check(err)
	raw, err := l.Blobs().ReadAll(context.Background(), d, image.MaxManifestSize)
	ts.Check(err)
	s.PutManifest(repo, tag, d.MediaType, raw)
}

// cmdServe serves a directory and sets URL to where: serve DIRECTORY. Requests for
// /hang get no answer; those for /pushed/N/REPOSITORY get one when the repository of the
// registry has N blobs.
func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: serve DIRECTORY")
	}
	w := worldOf(ts)
	files := http.FileServer(http.Dir(ts.MkAbs(args[0])))
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests = append(w.requests, r.Method+" "+r.URL.Path)
		w.mu.Unlock()
		if r.URL.Path == hang {
			<-r.Context().Done()
			return
		}
		if rest, ok := strings.CutPrefix(r.URL.Path, "/pushed/"); ok {
			count, repo, _ := strings.Cut(rest, "/")
			n, err := strconv.Atoi(count)
			for err == nil && w.registry.Blobs(repo) < n && r.Context().Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			return
		}
		files.ServeHTTP(rw, r)
	}))
	ts.Defer(s.Close)
	ts.Setenv("URL", s.URL)
}

// cmdRequests prints what was asked of the file server or the registry since
// the last time.
func cmdRequests(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.mu.Lock()
	lines := w.requests
	w.requests = nil
	w.mu.Unlock()
	if w.registry != nil {
		for _, r := range w.registry.Requests() {
			lines = append(lines, r.Method+" "+r.Path)
		}
	}
	for _, l := range lines {
		_, err := fmt.Fprintln(ts.Stdout(), l)
		ts.Check(err)
	}
}

// cmdStatus runs a program that must end with a status: status CODE PROGRAM [ARG...].
func cmdStatus(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status CODE PROGRAM [ARG...]")
	}
	checkStatus(ts, args[0], ts.Exec(args[1], args[2:]...))
}

func checkStatus(ts *testscript.TestScript, want string, err error) {
	got := "0"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = strconv.Itoa(exit.ExitCode())
	} else if err != nil {
		got = err.Error()
	}
	if got != want {
		ts.Fatalf("exit status: got %s, want %s", got, want)
	}
}

// cmdInterrupt runs a program and sends it a signal when a process somewhere has
// the word TOKEN as an argument or waits for the file that never comes; the program must end with the status CODE, which
// is -1 where the signal ends it: interrupt SIGNAL CODE PROGRAM [ARG...].
func cmdInterrupt(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}
	if len(args) < 3 || signals[args[0]] == nil {
		ts.Fatalf("usage: interrupt INT|TERM|KILL CODE PROGRAM [ARG...]")
	}
	cmd := exec.Command("env", append([]string{"-i"}, environ(ts)...)...)
	cmd.Args = append(cmd.Args, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	token, w := ts.Getenv("TOKEN"), worldOf(ts)
	err := wait(func() bool {
		return w.hangs() || len(processes(func(p process) bool { return p.argsOf(token) })) > 0
	}, ended)
	if err == nil {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
		err = <-ended
	} else {
		_ = cmd.Process.Kill()
		ts.Fatalf("no process sleeps %s, none waits: %v\n%s", token, err, out.Bytes())
	}
	_, werr := ts.Stdout().Write(out.Bytes())
	ts.Check(werr)
	checkStatus(ts, args[1], err)
}

// environ is the script's environment, as far as programs need it.
func environ(ts *testscript.TestScript) []string {
	var out []string
	for _, k := range []string{"PATH", "HOME", "XDG_DATA_HOME", "WORK", "TMPDIR", "SOURCE_DATE_EPOCH"} {
		if v := ts.Getenv(k); v != "" {
			out = append(out, k+"="+v)
		}
	}
	return out
}

// wait polls until a condition holds. Where ended gets something first, or it
// takes too long, it returns an error.
func wait(done func() bool, ended chan error) error {
	limit := time.After(patience)
	for !done() {
		select {
		case err := <-ended:
			return fmt.Errorf("it ended: %w", errors.Join(err, errors.New("too early")))
		case <-limit:
			return errors.New("it takes too long")
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// leftovers lists the processes and mounts that have to do with a script. Killed
// ones may take a moment to go.
func leftovers(work, token string) []string {
	var left []string
	here, _ := os.Readlink("/proc/self/ns/mnt")
	_ = wait(func() bool {
		left = processes(func(p process) bool {
			return p.pid != os.Getpid() && (p.argsOf(token) || mentions(p.cwd, work) || mentions(p.environ, work) ||
				p.mountNS != "" && p.mountNS != here && mentions(p.mounts, work))
		})
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for m := range strings.Lines(string(mounts)) {
			if mentions(m, work) {
				left = append(left, "mount "+m)
			}
		}
		return len(left) == 0
	}, nil)
	return left
}

// mentions tells whether text has the directory or a path in it, and not only one
// whose name begins alike.
func mentions(text, dir string) bool {
	for _, end := range []string{"/", " ", "\x00"} {
		if strings.Contains(text, dir+end) {
			return true
		}
	}
	return strings.HasSuffix(text, dir)
}

// cmdTmpfs mounts a file system of a size until the script's end: tmpfs DIRECTORY SIZE.
func cmdTmpfs(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: tmpfs DIRECTORY SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o755))
	ts.Check(syscall.Mount("none", dir, "tmpfs", 0, "mode=755,size="+args[1]))
	unmountLater(ts, dir)
}

// unmountLater unmounts at the script's end. State directories belong to ids that
// only the program can act for: they go with the mount.
func unmountLater(ts *testscript.TestScript, dir string) {
	ts.Defer(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			worldOf(ts).t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// cmdVolume makes a file system that lies in a file and mounts it until the script's
// end: volume KIND DIRECTORY SIZE [OPTIONS], as "volume btrfs data 200m". The kind
// overlay is one of directories beside DIRECTORY, which must be in no overlay.
func cmdVolume(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: volume KIND DIRECTORY SIZE [OPTIONS]")
	}
	kind, dir, options := args[0], ts.MkAbs(args[1]), "loop"
	if len(args) > 3 {
		options += "," + args[3]
	}
	ts.Check(os.Mkdir(dir, 0o755))
	if kind == "overlay" {
		for _, d := range []string{".lower", ".upper", ".work"} {
			ts.Check(os.Mkdir(dir+d, 0o755))
		}
		ts.Check(syscall.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+".lower,upperdir="+dir+".upper,workdir="+dir+".work"))
	} else {
		ts.Check(ts.Exec("truncate", "-s", args[2], dir+".image"))
		ts.Check(ts.Exec("mkfs."+kind, "-q", dir+".image"))
		ts.Check(ts.Exec("mount", "-o", options, dir+".image", dir))
	}
	unmountLater(ts, dir)
}

// process is what /proc tells of one, as far as it may be read.
type process struct {
	pid             int
	args            []string
	cwd, environ    string
	mounts, mountNS string
}

// argsOf tells whether it is what a script's step started: "sleep TOKEN".
func (p process) argsOf(token string) bool {
	return len(p.args) > 1 && p.args[1] == token && strings.HasSuffix(p.args[0], "sleep")
}

func processes(match func(process) bool) []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []string
	for _, d := range dirs {
		read := func(name string) string {
			b, _ := os.ReadFile(filepath.Join(d, name))
			return string(b)
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		p := process{pid: pid, args: strings.Split(read("cmdline"), "\x00"), environ: read("environ"), mounts: read("mountinfo")}
		p.cwd, _ = os.Readlink(filepath.Join(d, "cwd"))
		p.mountNS, _ = os.Readlink(filepath.Join(d, "ns/mnt"))
		if match(p) {
			out = append(out, fmt.Sprintf("process %d %q in %s", pid, p.args, p.cwd))
		}
	}
	return out
}
