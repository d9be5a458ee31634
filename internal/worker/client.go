// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package worker is the process inside the user namespace and the way to talk to it.
//
// The main process of a build keeps the user's own ids and touches no foreign
// file. What needs other ids or mounts is asked of the worker: unpack layers,
// run steps, make layers, pack them, read files out of root file systems,
// delete trees. Start starts it at the first need; Main is its life. It is the
// first process of its own pid namespace, and ends when its socket closes: so
// nothing of a build outlives the main process, however that ends.
//
// The two trust each other; what they read together (images, archives, what
// steps made) is trusted by neither.
package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"

	"build.stacker.dev/internal/userns"
)

// Client calls a worker. Its methods may be called at the same time.
type Client struct {
	proc *userns.Process
	mu   sync.Mutex // one call's announcement at a time
	ctl  conn
}

// Options are what a worker needs.
type Options struct {
	Plan  userns.Plan
	Trees *os.File // the tree area; becomes the worker's working directory
	// Driver names the snapshot driver: snapshot.Auto, which is the zero value too, or one that
	// must be used.
	Driver string
}

// Start starts a worker.
func Start(ctx context.Context, o Options) (*Client, error) {
	p, err := userns.Start(ctx, o.Plan, userns.StartOptions{Dir: o.Trees, Stderr: os.Stderr, Driver: o.Driver})
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	return &Client{proc: p, ctl: conn{p.Conn}}, nil
}

// Close ends the worker and everything that it runs, and waits for that.
func (c *Client) Close() error {
	_ = c.proc.Conn.Close()
	return c.proc.Wait()
}

// call sends a request and waits for its value, passing events on.
func (c *Client) call(ctx context.Context, r request, files []*os.File, event func(json.RawMessage, []*os.File), value any) error {
	here, there, err := pair()
	if err != nil {
		return err
	}
	defer here.Close()
	c.mu.Lock()
	err = c.ctl.send(struct{}{}, there)
	c.mu.Unlock()
	_ = there.Close()
	if err != nil {
		return fmt.Errorf("reach worker: %w", err)
	}
	if err := (conn{here}).send(r, files...); err != nil {
		return fmt.Errorf("reach worker: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = here.CloseWrite() })
	defer stop()
	return c.replies(ctx, here, event, value)
}

func (c *Client) replies(ctx context.Context, here *net.UnixConn, event func(json.RawMessage, []*os.File), value any) error {
	for {
		var r reply
		files, err := conn{here}.receive(&r)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the worker process ended: %w", err)
		}
		switch {
		case r.Error != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case r.Error != nil:
			return r.Error
		case r.Event != nil:
			if event != nil {
				event(r.Event, files)
			} else {
				closeAll(files)
			}
		default:
			if value == nil {
				return nil
			}
			if err := json.Unmarshal(r.Value, value); err != nil {
				return fmt.Errorf("decode worker's reply: %w", err)
			}
			return nil
		}
	}
}

// Unpack unpacks an image's layers. files are what the request's layers number.
// One message carries a limited number of files: an image of more layers takes
// several calls, from the bottom up.
func (c *Client) Unpack(ctx context.Context, r UnpackRequest, files []*os.File, progress func(UnpackEvent)) (UnpackReply, error) {
	layers := slices.Clone(r.Layers)
	for at := 0; ; {
		var batch []*os.File
		for at < len(layers) && len(batch) < maxFiles {
			if l := &layers[at]; l.Tree == "" {
				batch = append(batch, files[l.File])
				l.File = len(batch) - 1
			}
			at++
		}
		out, err := c.unpack(ctx, UnpackRequest{Layers: layers[:at]}, batch, progress)
		if err != nil || at == len(layers) {
			return out, err
		}
		for i, t := range out.Trees {
			layers[i].Tree = t
		}
	}
}

func (c *Client) unpack(ctx context.Context, r UnpackRequest, files []*os.File, progress func(UnpackEvent)) (UnpackReply, error) {
	var out UnpackReply
	err := c.call(ctx, request{Unpack: &r}, files, func(raw json.RawMessage, _ []*os.File) {
		var e UnpackEvent
		if json.Unmarshal(raw, &e) == nil && progress != nil {
			progress(e)
		}
	}, &out)
	return out, err
}

// Apply makes a layer, or a kept tree, from the tar stream in.
func (c *Client) Apply(ctx context.Context, r ApplyRequest, in *os.File) (ApplyReply, error) {
	var out ApplyReply
	err := c.call(ctx, request{Apply: &r}, []*os.File{in}, nil, &out)
	return out, err
}

// Exec runs a step. With r.Terminal, console receives the step's terminal once.
func (c *Client) Exec(ctx context.Context, r ExecRequest, files []*os.File, console func(*os.File)) (ExecReply, error) {
	return c.ExecWith(ctx, r, files, console, nil)
}

// ExecWith is Exec for steps with SSH mounts: listener receives the listening end
// of each one's socket, with its Mount.ID.
func (c *Client) ExecWith(ctx context.Context, r ExecRequest, files []*os.File, console func(*os.File), listener func(int, *os.File)) (ExecReply, error) {
	var out ExecReply
	err := c.call(ctx, request{Exec: &r}, files, func(raw json.RawMessage, got []*os.File) {
		var e execEvent
		if json.Unmarshal(raw, &e) == nil && e.Listener > 0 && listener != nil && len(got) == 1 {
			listener(e.Listener-1, got[0])
			return
		}
		if console != nil && len(got) == 1 {
			console(got[0])
			return
		}
		closeAll(got)
	}, &out)
	return out, err
}

// Pack writes a kept layer as a blob to out.
func (c *Client) Pack(ctx context.Context, r PackRequest, out *os.File) (PackReply, error) {
	var p PackReply
	err := c.call(ctx, request{Pack: &r}, []*os.File{out}, nil, &p)
	return p, err
}

// ReadTar streams files of a stack of trees as a tar to out.
func (c *Client) ReadTar(ctx context.Context, r ReadTarRequest, out *os.File) error {
	return c.call(ctx, request{ReadTar: &r}, []*os.File{out}, nil, nil)
}

// Stat tells what paths name in a stack of trees.
func (c *Client) Stat(ctx context.Context, lower, paths []string) ([]FileKind, error) {
	var out StatReply
	err := c.call(ctx, request{Stat: &StatRequest{Lower: lower, Paths: paths}}, nil, nil, &out)
	return out.Kinds, err
}

// Scan writes what a stack of trees holds to out, as the JSON of a bom.Inventory.
func (c *Client) Scan(ctx context.Context, lower []string, out *os.File) error {
	return c.call(ctx, request{Scan: &ScanRequest{Lower: lower}}, []*os.File{out}, nil, nil)
}

// Remove deletes trees.
func (c *Client) Remove(ctx context.Context, trees []string) error {
	return c.call(ctx, request{Remove: &RemoveRequest{Trees: trees}}, nil, nil, nil)
}

// Usage measures trees.
func (c *Client) Usage(ctx context.Context, trees []string) ([]int64, error) {
	var out UsageReply
	err := c.call(ctx, request{Usage: &UsageRequest{Trees: trees}}, nil, nil, &out)
	return out.Bytes, err
}

// Probe asks what works in the worker.
func (c *Client) Probe(ctx context.Context) (ProbeReply, error) {
	var out ProbeReply
	err := c.call(ctx, request{Probe: &ProbeRequest{}}, nil, nil, &out)
	return out, err
}
