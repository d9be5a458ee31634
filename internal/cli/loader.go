// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// loadInto feeds an archive to docker, where one listens, else to podman. The user
// chooses docker with DOCKER_HOST.
func (a *app) loadInto(ctx context.Context, archive *os.File) error {
	var looked []string
	for _, host := range dockerHosts(os.Getenv) {
		client, base, err := dockerClient(host)
		if err != nil {
			return err
		}
		ok, err := dockerAnswers(ctx, client, base)
		if ok {
			return dockerLoad(ctx, client, base, archive)
		}
		if os.Getenv("DOCKER_HOST") != "" {
			return fmt.Errorf("load: docker does not answer at DOCKER_HOST=%s: %w", host, err)
		}
		looked = append(looked, host)
	}
	podman, err := exec.LookPath("podman")
	if err != nil {
		return fmt.Errorf("load: found no docker and no podman: looked for %s and for podman in PATH; "+
			"set DOCKER_HOST, or write an archive with --output type=docker,dest=FILE", strings.Join(looked, ", "))
	}
	cmd := exec.CommandContext(ctx, podman, "load", "--quiet")
	var out, msg bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = archive, &out, &msg
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("load: podman load: %w: %s", err, lastLine(msg.String()))
	}
	return nil
}

// lastLine is what a program said last.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// dockerHosts are where docker may listen, the most likely first.
func dockerHosts(getenv func(string) string) []string {
	if h := getenv("DOCKER_HOST"); h != "" {
		return []string{h}
	}
	hosts := []string{}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		hosts = append(hosts, "unix://"+filepath.Join(dir, "docker.sock"))
	}
	return append(hosts, "unix:///var/run/docker.sock")
}

// dockerClient speaks to a docker. There is no TLS: what ssh:// and DOCKER_TLS_VERIFY
// ask for, podman and docker load can do with an archive.
func dockerClient(host string) (*http.Client, string, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, "", fmt.Errorf("load: DOCKER_HOST: %w", err)
	}
	switch u.Scheme {
	case "unix":
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		}
		return &http.Client{Transport: &http.Transport{DialContext: dial}}, "http://docker", nil
	case "tcp", "http":
		if os.Getenv("DOCKER_TLS_VERIFY") == "" {
			return &http.Client{Transport: &http.Transport{}}, "http://" + u.Host, nil
		}
	}
	return nil, "", fmt.Errorf("load: DOCKER_HOST=%s: only unix:// and tcp:// without TLS are supported: "+
		"write an archive with --output type=docker,dest=- and pipe it to docker load", host)
}

func dockerAnswers(ctx context.Context, c *http.Client, base string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/_ping", nil)
	if err != nil {
		return false, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, errors.New(resp.Status)
	}
	return true, nil
}

// maxAnswer bounds what docker says about a load, in bytes.
const maxAnswer = 1 << 20

func dockerLoad(ctx context.Context, c *http.Client, base string, archive *os.File) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/images/load?quiet=1", io.NopCloser(archive))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("load: docker: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("load: docker: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("load: docker: %s: %.500s", resp.Status, bytes.TrimSpace(answer))
	}
	dec := json.NewDecoder(bytes.NewReader(answer))
	for {
		var line struct{ Error string }
		if dec.Decode(&line) != nil {
			return nil // the end, or no JSON: it answered 200
		}
		if line.Error != "" {
			return fmt.Errorf("load: docker: %s", line.Error)
		}
	}
}
