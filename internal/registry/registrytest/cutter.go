// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"net"
	"sync"
	"testing"
)

// Cutter passes connections on to a registry and cuts them after so many bytes.
type Cutter struct {
	listener net.Listener
	to       string

	mu   sync.Mutex
	left []int64 // bytes until each of the next cuts
	sent int64   // bytes passed on, in both directions
	cuts int
	open map[net.Conn]bool
	done bool // the test has ended
	wg   sync.WaitGroup
}

// NewCutter listens on a port of 127.0.0.1 and passes on to the address. The first
// cut comes after cuts[0] bytes, the next one after cuts[1] more, and so on.
func NewCutter(t testing.TB, to string, cuts ...int64) *Cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cutter{listener: l, to: to, left: cuts, open: map[net.Conn]bool{}}
	c.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		c.done = true
		c.mu.Unlock()
		c.cut()
		c.wg.Wait()
	})
	return c
}

// Host returns host:port.
func (c *Cutter) Host() string { return c.listener.Addr().String() }

// Sent returns how many bytes were passed on, and how many cuts there were.
func (c *Cutter) Sent() (bytes int64, cuts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.cuts
}

// serve passes one connection on.
func (c *Cutter) serve(in net.Conn) {
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		_ = in.Close()
		return
	}
	c.mu.Lock()
	c.open[in], c.open[out] = true, true
	done := c.done
	c.mu.Unlock()
	if done { // a client dials ahead: over this connection no request would ever come
		c.cut()
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.pass(out, in) })
	wg.Go(func() { c.pass(in, out) })
	wg.Wait()
	c.mu.Lock()
	delete(c.open, in)
	delete(c.open, out)
	c.mu.Unlock()
}

// pass copies until one side ends or the cut is due.
func (c *Cutter) pass(to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		m, due := c.count(int64(n))
		if _, werr := to.Write(buf[:m]); werr != nil && err == nil {
			err = werr
		}
		if due {
			c.cut()
		}
		if err != nil || due {
			break
		}
	}
	// What was passed on arrives; the other direction ends as well.
	_ = to.Close()
	_ = from.Close()
}

// count adds what passes and returns how much of it may.
func (c *Cutter) count(n int64) (pass int64, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.left) > 0 && n >= c.left[0] {
		n, due = c.left[0], true
		c.left = c.left[1:]
		c.cuts++
	} else if len(c.left) > 0 {
		c.left[0] -= n
	}
	c.sent += n
	return n, due
}

// cut closes all connections.
func (c *Cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
}
