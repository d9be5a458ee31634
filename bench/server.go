// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"
)

// server is a registry of the distribution project, whose blobs are in the area.
type server struct {
	a       *area
	address string
	cmd     *exec.Cmd
}

// registryConfig has the directory and the address filled in.
const registryConfig = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %s}
http:
  addr: %q
`

// startServer starts an empty registry; the caller stops it.
func startServer(ctx context.Context, a *area) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port for the registry: %w", err)
	}
	s := &server{a: a, address: l.Addr().String()}
	_ = l.Close()
	if err := a.write("registry.yml", fmt.Sprintf(registryConfig, a.path("registry"), s.address)); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// start starts the program and waits until it answers.
func (s *server) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(ctx, "docker-registry", "serve", s.a.path("registry.yml"))
	s.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start registry (Debian: docker-registry): %w", err)
	}
	for range 200 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(errors.New("start registry: it does not answer"), s.stop())
}

// stop ends the program.
func (s *server) stop() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stop registry: %w", err)
	}
	_ = s.cmd.Wait() // it was killed
	return nil
}

// empty begins anew with an empty registry.
func (s *server) empty(ctx context.Context) error {
	if err := errors.Join(s.stop(), s.a.remove("registry")); err != nil {
		return err
	}
	return s.start(ctx)
}

// distant passes connections on to an address, and every answer so much later, as if
// that were far away. It ends with stop.
func distant(address string, later time.Duration) (at string, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			}()
			go delay(in, out, later)
		}
	}()
	return l.Addr().String(), l.Close, nil
}

// delay copies what comes, each piece so much later, and closes the destination.
func delay(to net.Conn, from io.Reader, later time.Duration) {
	type piece struct {
		at   time.Time
		data []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 64<<10)
			n, err := from.Read(buf)
			pieces <- piece{time.Now().Add(later), buf[:n]}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.at))
		_, _ = to.Write(p.data)
	}
	_ = to.Close()
}
