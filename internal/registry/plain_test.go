// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"build.stacker.dev/internal/registry/hosts"
	"build.stacker.dev/internal/registry/registrytest"
)

// muddle is a registry that answers handshakes of TLS with what it is told.
type muddle struct {
	net.Listener
	to     string               // the registry
	answer func(c *net.TCPConn) // to TLS
	shakes atomic.Int32         // how often TLS was tried
}

func newMuddle(t *testing.T, to string, answer func(*net.TCPConn)) *muddle {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	m := &muddle{Listener: l, to: to, answer: answer}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go m.serve(c.(*net.TCPConn))
		}
	}()
	return m
}

func (m *muddle) serve(c *net.TCPConn) {
	defer c.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return
	}
	if first[0] == 0x16 { // a handshake
		m.shakes.Add(1)
		m.answer(c)
		return
	}
	m.pass(c, first)
}

// pass lets the registry answer what comes behind the bytes that were read.
func (m *muddle) pass(c *net.TCPConn, first []byte) {
	out, err := net.Dial("tcp", m.to)
	if err != nil {
		return
	}
	defer out.Close()
	_, _ = out.Write(first)
	go func() {
		_, _ = io.Copy(out, c)
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, out)
}

// TestPlainWhateverIsAnswered pulls from registries without TLS that answer a handshake in
// every way that was seen.
func TestPlainWhateverIsAnswered(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	text := func(text string) func(*net.TCPConn) {
		return func(c *net.TCPConn) { _, _ = io.WriteString(c, text) }
	}
	for name, answer := range map[string]func(*net.TCPConn){
		"status line":         text("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
		"HTTP/0.9 of nginx":   text("<html>\r\n<head><title>400 Bad Request</title></head>\r\n</html>\r\n"),
		"HTTP/0.9 of Python":  text("<!DOCTYPE HTML>\n<html lang=\"en\">\n"),
		"empty lines":         text("\r\n\r\n\r\n"),
		"lower case":          text("http/1.0 400\r\n\r\n"),
		"a word":              text("Bad request.\n"),
		"digits":              text("400 Bad Request"),
		"spaces":              text("          "),
		"fewer bytes":         text("?\n"),
		"nothing":             text(""),
		"reset":               func(c *net.TCPConn) { _ = c.SetLinger(0) },
		"binary":              text("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03"),
		"a frame of HTTP/2":   text("\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
		"the port of another": text("SSH-2.0-OpenSSH_9.2\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMuddle(t, s.Host(), answer)
			c := newClient(t, Options{Wait: func(context.Context, time.Duration) error { return nil }})
			for range 2 {
				if _, _, err := c.Resolve(t.Context(), parse(t, m.Addr().String()+"/a:v1")); err != nil {
					t.Fatal(err)
				}
			}
			if n := m.shakes.Load(); n != 1 {
				t.Errorf("TLS was tried %d times, want once", n)
			}
			// Where plain HTTP is not allowed nothing is sent without TLS.
			s.Requests()
			h, err := c.hostFor(hosts.Place{Registry: "r.example:5000"})
			if err != nil {
				t.Fatal(err)
			}
			h.transport = h.transport.Clone()
			h.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, m.Addr().String())
			}
			if _, _, err := c.Resolve(t.Context(), parse(t, "r.example:5000/a:v1")); err == nil {
				t.Error("a registry that is not insecure was spoken to without TLS")
			}
			if sent := s.Requests(); len(sent) != 0 {
				t.Errorf("without TLS there were the requests %v", sent)
			}
		})
	}
}

// TestPlainAtOnce: of many requests at once, the first finds out that there is no TLS.
func TestPlainAtOnce(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	m := newMuddle(t, s.Host(), func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
	})
	c := newClient(t, Options{})
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, _, err := c.Resolve(t.Context(), parse(t, m.Addr().String()+"/a:v1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := m.shakes.Load(); n != 1 {
		t.Errorf("TLS was tried %d times, want once", n)
	}
	// Who waits for the first one does so no longer than it is to.
	h, err := c.hostFor(hosts.Place{Registry: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	h.meet(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.meet(ctx)()
	h.known()
	h.meet(t.Context())()
}

// TestHangUpOfTLS: a registry with TLS that once ends a connection too early is not taken
// for one without.
func TestHangUpOfTLS(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{TLS: true})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	var m *muddle
	m = newMuddle(t, s.Host(), func(c *net.TCPConn) {
		if m.shakes.Load() > 1 {
			m.pass(c, []byte{0x16})
		}
	})
	c := newClient(t, Options{RootCAs: s.CAs()})
	if _, _, err := c.Resolve(t.Context(), parse(t, m.Addr().String()+"/a:v1")); err != nil {
		t.Fatal(err)
	}
	h, err := c.hostFor(hosts.Place{Registry: m.Addr().String()})
	if err != nil || h.currentScheme() != "https" {
		t.Errorf("the registry is spoken to over %s, %v", h.currentScheme(), err)
	}
}
