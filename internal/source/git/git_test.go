// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package git

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

func needGit(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the program git is missing")
		}
		t.Skip("needs git")
	}
}

// A server may send git elsewhere. What it is given for one origin goes nowhere else:
// git itself would send the header of the first URL along.
func TestRedirect(t *testing.T) {
	needGit(t)
	var mu sync.Mutex
	var seen []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if h := r.Header.Get("Authorization"); h != "" {
			seen = append(seen, r.Method+" "+r.URL.Path+": "+h)
		}
		// Begins an answer to which git sends another request.
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = w.Write([]byte("001e# service=git-upload-pack\n0000" + "000eversion 2\n" + "0012ls-refs=x-nop\n" + "000cfetch=x\n" + "0000"))
	}))
	defer other.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.RequestURI(), http.StatusFound)
	}))
	defer first.Close()
	for _, auth := range []string{"", "basic c2VjcmV0"} {
		_, err := Fetch(t.Context(), Options{Dir: t.TempDir(), Remote: first.URL + "/r.git", Ref: "main", Authorization: auth, Environ: os.Environ()})
		if err == nil {
			t.Fatal("no error")
		}
		if hint := strings.Contains(err.Error(), "redirects"); hint != (auth != "") {
			t.Errorf("authorization %q: error %v", auth, err)
		}
	}
	if len(seen) > 0 {
		t.Errorf("the other server was told %q", seen)
	}
}

func TestDisplay(t *testing.T) {
	for remote, want := range map[string]string{
		"https://h/r.git":                      "https://h/r.git",
		"https://user:secret@h/r.git":          "https://h/r.git",
		"https://secret@h/r.git":               "https://h/r.git",
		"https://secret:x-oauth-basic@h/r.git": "https://h/r.git",
		"ssh://git@h/r.git":                    "ssh://git@h/r.git",
		"ssh://git:secret@h/r.git":             "ssh://git@h/r.git",
		"git@h:r.git":                          "git@h:r.git",
		"https://user:se%zzcret@h/r.git":       "https://h/r.git",
		"https://user:secret@h\n/r.git":        "https://h\n/r.git",
		"https://h/r.git@v1":                   "https://h/r.git@v1",
	} {
		if got := Display(remote); got != want {
			t.Errorf("Display(%q) = %q, want %q", remote, got, want)
		}
	}
	r := repository{o: Options{Remote: "https://s3cret@h/r.git"}}
	if got := r.clean("fatal: unable to access 'https://s3cret@h/r.git/': no"); strings.Contains(got, "s3cret") {
		t.Errorf("a message is %q", got)
	}
}
