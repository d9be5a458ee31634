// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package httpfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"build.stacker.dev/internal/source/localtree"
	"github.com/opencontainers/go-digest"
)

// server answers with content as its fields say, and keeps the requests.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	content  string
	etag     string
	modified string
	checksum string // "auto": the right one
	noHead   bool
	fail     int // so many next requests get failWith
	failWith int
	cut      int // so many next GETs break off in the middle
	log      []string
	auth     []string
}

func newServer(t *testing.T, content string) *server {
	s := &server{content: content}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := r.Method
	if v := r.Header.Get("Range"); v != "" {
		line += " " + v
	}
	s.log = append(s.log, line)
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	if s.fail > 0 {
		s.fail--
		w.WriteHeader(s.failWith)
		return
	}
	if s.noHead && r.Method == http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	if s.checksum == "auto" {
		w.Header().Set("X-Checksum-Sha256", strings.ToUpper(hexOf(s.content)))
	} else if s.checksum != "" {
		w.Header().Set("X-Checksum-Sha256", s.checksum)
	}
	w.Header().Set("Content-Disposition", `attachment; filename="../../pwn"`)
	if r.Method == http.MethodGet && s.cut > 0 {
		s.cut--
		w.Header().Set("Content-Length", fmt.Sprint(len(s.content)))
		w.Header().Set("Last-Modified", s.modified)
		_, _ = w.Write([]byte(s.content[:len(s.content)/2]))
		panic(http.ErrAbortHandler)
	}
	var at time.Time
	if s.modified != "" {
		at, _ = http.ParseTime(s.modified)
	}
	http.ServeContent(w, r, "", at, strings.NewReader(s.content))
}

func (s *server) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.log, ", ")
	s.log = nil
	return out
}

func hexOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func options(t *testing.T) Options {
	return Options{Dir: t.TempDir(), Pause: time.Millisecond, Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

func fetchFile(t *testing.T, url string, o Options, how How, content string) *Result {
	t.Helper()
	r, err := Fetch(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != content || r.Digest != digest.FromString(content) || r.Size != int64(len(content)) {
		t.Errorf("content: got %.40q (%s, %d bytes), want %.40q", data, r.Digest, r.Size, content)
	}
	if r.How != how {
		t.Errorf("how: got %d, want %d (why: %v)", r.How, how, r.Why)
	}
	return r
}

const longAgo = "Mon, 02 Jan 2006 15:04:05 GMT"

func TestReuse(t *testing.T) {
	tests := []struct {
		name     string
		set      func(*server)
		change   func(*server)
		how      How
		requests string
	}{
		{"entity tag", func(s *server) { s.etag = `"1"` }, nil, Reused, "HEAD"},
		{"entity tag changed", func(s *server) { s.etag = `"1"` }, func(s *server) { s.etag, s.content = `"2"`, "newer" }, Downloaded, "HEAD, GET"},
		{"time", func(s *server) { s.modified = longAgo }, nil, Reused, "HEAD"},
		{"time changed", func(s *server) { s.modified = longAgo },
			func(s *server) { s.modified, s.content = "Tue, 03 Jan 2006 15:04:05 GMT", "other" }, Downloaded, "HEAD, GET"},
		{"time of this second", func(s *server) { s.modified = time.Now().UTC().Add(time.Minute).Format(http.TimeFormat) },
			func(s *server) { s.content = "other" }, Downloaded, "HEAD, GET"},
		{"checksum", func(s *server) { s.checksum = "auto" }, nil, Reused, "HEAD"},
		{"checksum changed, same size", func(s *server) { s.checksum = "auto" }, func(s *server) { s.content = "other" }, Downloaded, "HEAD, GET"},
		{"checksum changed, tag not", func(s *server) { s.checksum, s.etag = "auto", `"1"` },
			func(s *server) { s.content = "other" }, Downloaded, "HEAD, GET"},
		{"nothing told", nil, nil, Downloaded, "HEAD, GET"},
		{"nothing told, changed", nil, func(s *server) { s.content = "other" }, Downloaded, "HEAD, GET"},
		{"no HEAD", func(s *server) { s.etag, s.noHead = `"1"`, true }, nil, Reused, "HEAD, GET"},
		{"server is ill", nil, func(s *server) { s.fail, s.failWith = 9, 503 }, ReusedOffline, "HEAD, GET, GET"},
		{"server is ill once", func(s *server) { s.etag = `"1"` }, func(s *server) { s.fail, s.failWith = 1, 503 }, Reused, "HEAD, GET"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, "first")
			if tt.set != nil {
				tt.set(s)
			}
			o := options(t)
			fetchFile(t, s.URL+"/f", o, Downloaded, "first")
			if got := s.requests(); got != "GET" {
				t.Errorf("first requests: got %s, want GET", got)
			}
			if tt.change != nil {
				tt.change(s)
			}
			want := s.content
			fetchFile(t, s.URL+"/f", o, tt.how, want)
			if got := s.requests(); got != tt.requests {
				t.Errorf("requests: got %s, want %s", got, tt.requests)
			}
			if left, _ := filepath.Glob(filepath.Join(o.Dir, "*", "partial")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestHash(t *testing.T) {
	s := newServer(t, "content")
	o := options(t)
	o.Hash = strings.ToUpper(hexOf("content"))
	fetchFile(t, s.URL+"/f", o, Downloaded, "content")
	s.requests()
	fetchFile(t, s.URL+"/f", o, Reused, "content")
	o.Hash = "sha256:" + hexOf("content")
	fetchFile(t, s.URL+"/f", o, Reused, "content")
	if got := s.requests(); got != "" {
		t.Errorf("requests with an equal kept file: got %s, want none", got)
	}
	o.Hash = hexOf("something else")
	_, err := Fetch(t.Context(), s.URL+"/f", o)
	if err == nil || !strings.Contains(err.Error(), "want "+o.Hash+", got "+hexOf("content")) {
		t.Errorf("other hash: got %v", err)
	}
	s.content = "something else"
	fetchFile(t, s.URL+"/f", o, Downloaded, "something else")
	for _, bad := range []string{"abc", strings.Repeat("g", 64), "md5:" + strings.Repeat("0", 32)} {
		o.Hash = bad
		if _, err := Fetch(t.Context(), s.URL+"/f", o); err == nil || !strings.Contains(err.Error(), "is not a sha256") {
			t.Errorf("hash %s: got %v", bad, err)
		}
	}
	s.checksum, o.Hash = hexOf("a lie"), ""
	if _, err := Fetch(t.Context(), s.URL+"/g", o); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("server tells another checksum: got %v", err)
	}
}

func TestKeptFileIsVerified(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"other bytes":    func(d string) error { return os.WriteFile(filepath.Join(d, "data"), []byte("CONTENT"), 0o600) },
		"gone":           func(d string) error { return os.Remove(filepath.Join(d, "data")) },
		"record garbled": func(d string) error { return os.WriteFile(filepath.Join(d, "record.json"), []byte("{"), 0o600) },
		"directory": func(d string) error {
			_ = os.Remove(filepath.Join(d, "data"))
			return os.MkdirAll(filepath.Join(d, "data/sub"), 0o700)
		},
		"symlink": func(d string) error {
			_ = os.Remove(filepath.Join(d, "data"))
			return os.Symlink("/etc/hostname", filepath.Join(d, "data"))
		},
	} {
		for _, index := range []*localtree.Index{nil, localtree.OpenIndex(t.TempDir())} {
			s := newServer(t, "content")
			s.etag = `"1"`
			o := options(t)
			o.Index, o.Hash = index, hexOf("content")
			r := fetchFile(t, s.URL+"/f", o, Downloaded, "content")
			fetchFile(t, s.URL+"/f", o, Reused, "content")
			if err := damage(filepath.Dir(r.Path)); err != nil {
				t.Fatal(err)
			}
			t.Log(name)
			fetchFile(t, s.URL+"/f", o, Downloaded, "content")
		}
	}
}

func TestOffline(t *testing.T) {
	s := newServer(t, "content")
	o := options(t)
	offline := o
	offline.Offline = true
	if _, err := Fetch(t.Context(), s.URL+"/f", offline); err == nil || !strings.Contains(err.Error(), "network is not to be used") {
		t.Errorf("nothing kept: got %v", err)
	}
	fetchFile(t, s.URL+"/f", o, Downloaded, "content")
	s.requests()
	fetchFile(t, s.URL+"/f", offline, ReusedOffline, "content")
	if got := s.requests(); got != "" {
		t.Errorf("offline requests: got %s", got)
	}
	s.Close()
	if r := fetchFile(t, s.URL+"/f", o, ReusedOffline, "content"); r.Why == nil {
		t.Errorf("server is gone: no reason told")
	}
	if _, err := Fetch(t.Context(), s.URL+"/g", o); err == nil || !strings.Contains(err.Error(), s.URL+"/g") {
		t.Errorf("server is gone, nothing kept: got %v, want an error with the URL", err)
	}
}

func TestBrokenDownloads(t *testing.T) {
	content := strings.Repeat("0123456789", 100_000)
	tests := []struct {
		name     string
		set      func(*server)
		requests string
	}{
		{"resumed", func(s *server) { s.etag, s.cut = `"1"`, 1 }, "GET, GET bytes=500000-"},
		{"resumed by time", func(s *server) { s.modified, s.cut = longAgo, 1 }, "GET, GET bytes=500000-"},
		{"nothing to resume by", func(s *server) { s.cut = 1 }, "GET, GET"},
		{"weak tag", func(s *server) { s.etag, s.cut = `W/"1"`, 1 }, "GET, GET"},
		{"errors", func(s *server) { s.fail, s.failWith = 3, 502 }, "GET, GET, GET, GET"},
		{"too many requests", func(s *server) { s.fail, s.failWith = 1, 429 }, "GET, GET"},
	}
	for _, tt := range tests {
		s := newServer(t, content)
		tt.set(s)
		t.Log(tt.name)
		fetchFile(t, s.URL+"/f", options(t), Downloaded, content)
		got := s.requests()
		// How much arrived before the end is the kernel's choice.
		if i := strings.Index(got, "bytes="); i >= 0 && strings.HasPrefix(tt.requests, got[:i]) {
			continue
		}
		if got != tt.requests {
			t.Errorf("%s: requests: got %s, want %s", tt.name, got, tt.requests)
		}
	}
}

func TestContentChangesWhileResumed(t *testing.T) {
	s := newServer(t, strings.Repeat("a", 1<<20))
	s.etag, s.cut = `"1"`, 1
	o := options(t)
	o.Progress = func(int64, int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.etag, s.content = `"2"`, "new content"
	}
	fetchFile(t, s.URL+"/f", o, Downloaded, "new content")
}

func TestErrors(t *testing.T) {
	for code, want := range map[int]string{
		404: "couldn't download URL: 404 Not Found",
		401: "couldn't download URL: 401 Unauthorized: log in to the server first, no user and password are known for it",
		500: "couldn't download URL: 500 Internal Server Error (5 attempts)",
	} {
		s := newServer(t, "x")
		s.fail, s.failWith = 9, code
		_, err := Fetch(t.Context(), s.URL+"/dir/f?token=secret", options(t))
		want = strings.Replace(want, "URL", s.URL+"/dir/f?…", 1)
		if err == nil || err.Error() != want {
			t.Errorf("%d:\n got %v\nwant %s", code, err, want)
		}
	}
}

func TestNoSecretInErrors(t *testing.T) {
	s := newServer(t, "x")
	s.fail, s.failWith = 99, 403
	host := strings.TrimPrefix(s.URL, "http://")
	for _, u := range []string{
		"http://user:S3CRET@" + host + "/f", "http://user:S3CRET@127.0.0.1:1/f", "http://user:S3CRET@" + host + "/..",
		"ftp://user:S3CRET@" + host + "/f", "http://user:S3CRET@" + host + "/%zz", "http://user:S3C?RET@" + host + "/", "http://user:S3CRET@/f",
	} {
		_, err := Fetch(t.Context(), u, options(t))
		if err == nil || strings.Contains(err.Error(), "S3C") || strings.Contains(err.Error(), "user:") {
			t.Errorf("%s: got %v", u, err)
		}
	}
}

func TestCredentialsStayAtTheirHost(t *testing.T) {
	for _, code := range []int{301, 302, 303, 307, 308} {
		var back string // where B sends to
		b := newServer(t, "from b")
		a := newServer(t, "from a")
		var authA []string
		mux := http.NewServeMux()
		mux.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) {
			authA = append(authA, r.Header.Get("Authorization"))
			http.Redirect(w, r, "/same", code)
		})
		mux.HandleFunc("/same", func(w http.ResponseWriter, r *http.Request) {
			authA = append(authA, r.Header.Get("Authorization"))
			http.Redirect(w, r, b.URL+"/hop", code)
		})
		mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) {
			authA = append(authA, r.Header.Get("Authorization"))
			_, _ = w.Write([]byte("the end"))
		})
		a.Config.Handler = mux
		b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%d: the other host got credentials", code)
			}
			http.Redirect(w, r, back, code)
		})
		aURL, _ := url.Parse(a.URL)
		back = "http://evil:pw@" + aURL.Host + "/end"
		o := options(t)
		o.Credentials = func(host, path string) (string, string, bool) {
			if host != aURL.Host || path != "/start" {
				t.Errorf("asked for credentials of %s %s", host, path)
			}
			return "u", "p", true
		}
		fetchFile(t, a.URL+"/start", o, Downloaded, "the end")
		const basic = "Basic dTpw"
		if got := strings.Join(authA, "|"); got != basic+"|"+basic+"|" {
			t.Errorf("%d: authorizations at the first host: got %q", code, got)
		}
	}
}

func TestCredentialsOfTheURL(t *testing.T) {
	s := newServer(t, "x")
	fetchFile(t, "http://u:p@"+strings.TrimPrefix(s.URL, "http://")+"/f#part", options(t), Downloaded, "x")
	if s.auth[0] != "Basic dTpw" {
		t.Errorf("got %q", s.auth[0])
	}
}

func TestRedirectsEnd(t *testing.T) {
	for target, want := range map[string]string{"/loop": "redirects", "file:///etc/passwd": "no http or https", "": "no http or https"} {
		s := newServer(t, "")
		s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if target != "" {
				w.Header().Set("Location", target)
			}
			w.WriteHeader(http.StatusFound)
		})
		if _, err := Fetch(t.Context(), s.URL+"/f", options(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", target, err, want)
		}
	}
}

func TestUntrustedCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	var n int
	o := options(t)
	o.Client.Transport = counting{o.Client.Transport, &n}
	if _, err := Fetch(t.Context(), s.URL+"/f", o); err == nil || !strings.Contains(err.Error(), "certificate") || n != 1 {
		t.Errorf("got %v after %d requests, want a certificate error after 1", err, n)
	}
}

type counting struct {
	http.RoundTripper
	n *int
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	*c.n++
	return c.RoundTripper.RoundTrip(r)
}

func TestStalledServer(t *testing.T) {
	s := newServer(t, "")
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("begin"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	o := options(t)
	o.Stall = 20 * time.Millisecond
	if _, err := Fetch(t.Context(), s.URL+"/f", o); !errors.Is(err, errStalled) {
		t.Errorf("got %v, want errStalled", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.Stall = time.Hour
	o.Progress = func(int64, int64) { cancel() }
	if _, err := Fetch(ctx, s.URL+"/f", o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestEncodingIsLeftAlone(t *testing.T) {
	s := newServer(t, "")
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("as it is"))
	})
	fetchFile(t, s.URL+"/f.tar.gz", options(t), Downloaded, "as it is")
}

func TestDiskErrorIsNotRetried(t *testing.T) {
	s := newServer(t, "x")
	o := options(t)
	o.Dir = filepath.Join(o.Dir, "file")
	if err := os.WriteFile(o.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(t.Context(), s.URL+"/f", o); err == nil || !strings.Contains(err.Error(), o.Dir) {
		t.Errorf("got %v, want an error with the path", err)
	}
	if isTemporary(fmt.Errorf("write: %w", &os.PathError{Op: "write", Path: "p", Err: os.ErrClosed})) {
		t.Errorf("a disk error counts as temporary")
	}
}

func TestConcurrentFetches(t *testing.T) {
	s := newServer(t, strings.Repeat("x", 1<<16))
	s.etag = `"1"`
	o := options(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := Fetch(t.Context(), s.URL+"/f", o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(s.requests(), "GET"); got != 1 {
		t.Errorf("got %d downloads, want 1", got)
	}
}

func TestName(t *testing.T) {
	tests := []struct{ url, want string }{
		{"http://h/a/file.tar.gz", "file.tar.gz"}, {"http://h/a/b/", "b"}, {"http://h", "index"}, {"http://h/", "index"},
		{"http://h//", "index"}, {"http://h/f?x=/y", "f"}, {"http://h/f#/y", "f"}, {"http://h/a%20b", "a b"}, {"http://h/%C3%A9", "é"},
		{"http://h/..", ""}, {"http://h/.", ""}, {"http://h/a/../..", ""}, {"http://h/%2e%2e", ""}, {"http://h/..%2f..%2fpwn", ""},
		{"http://h/%00", ""}, {"http://h/a%2Fb", ""}, {"http://h/a%0ab", ""}, {"http://h/%2f", ""}, {"http://h/" + strings.Repeat("a", 256), ""},
		{"file:///etc/passwd", ""}, {"http://", ""}, {"/f", ""},
	}
	for _, tt := range tests {
		got, err := Name(tt.url)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%.60s: got %q, %v, want %q", tt.url, got, err, tt.want)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("http://h/..%2f")
	f.Fuzz(func(t *testing.T, u string) {
		if name, err := Name(u); err == nil && (name == "" || name != filepath.Base(name) || name == ".." || name == "." || strings.Contains(name, "\x00")) {
			t.Errorf("%q: unsafe name %q", u, name)
		}
	})
}
