// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source/localtree"
	"build.stacker.dev/internal/worker"
)

// Secrets gives what steps may see and nothing may keep.
type Secrets interface {
	// Secret returns the value of a secret; false where there is none.
	Secret(id string) ([]byte, bool, error)
	// Agent connects to an ssh agent; false where there is none.
	Agent(id string) (func() (net.Conn, error), bool, error)
}

// addCommand adds to a key what a Dockerfile's step depends on: of mounts what
// they show, of secrets and agents their ids, of caches nothing that is in them.
func (b *Builder) addCommand(key *cache.Ingredients, c *graph.Command, in []cache.Result) error {
	for _, m := range c.Mounts {
		// ExtraHosts and limits are not here: they are of the machine, or of the
		// user, as in BuildKit.
		text, err := json.Marshal(graph.Mount{
			Type: m.Type, Target: m.Target, Selector: m.Selector, ReadOnly: m.ReadOnly, ID: m.ID,
			UID: m.UID, GID: m.GID, Mode: m.Mode, Size: m.Size,
		})
		if err != nil {
			return fmt.Errorf("encode mount: %w", err)
		}
		key.Add("mount "+m.Target, string(text))
		if m.Type == graph.MountCache {
			b.mounts.note(mountID(m))
		}
		if m.Type != graph.MountBind || m.Input < 0 {
			continue
		}
		content, list, err := b.mounted(in[m.Input], m.Selector)
		if err != nil {
			return err
		}
		*key = append(*key, cache.Ingredient{Name: "files of mount " + m.Target, Value: content, List: list})
	}
	if c.User != "" {
		key.Add("user", c.User)
	}
	if c.Hostname != "" {
		key.Add("host name", c.Hostname)
	}
	for _, h := range c.Hosts {
		key.Add("host "+h.Key, h.Value)
	}
	for _, s := range c.Secrets {
		key.Add("secret in environment "+s.Name, s.ID)
	}
	for _, e := range c.ExitCodes {
		key.Add("exit status", fmt.Sprint(e))
	}
	return nil
}

// mounted names what a bind mount shows.
func (b *Builder) mounted(r cache.Result, selector string) (content, list string, err error) {
	if b.lists.get(r) == nil {
		return r.Chain(), "", nil
	}
	l := b.lists.get(b.part(r, selector))
	list, err = b.State.Cache.PutList(localtree.Marshal(l.entries))
	return l.digest(), list, err
}

// command fills in the request what a Dockerfile's step has.
func (s *step) command(ctx context.Context, c *graph.Command, in []cache.Result, emit solve.Sink) error {
	out := &worker.Command{User: c.User, Hostname: c.Hostname, ShmSize: c.ShmSize, ExitCodes: c.ExitCodes}
	for _, h := range c.Hosts {
		out.Hosts = append(out.Hosts, h.Value+"\t"+h.Key)
	}
	for _, l := range c.Limits {
		limit, err := resourceLimit(l)
		if err != nil {
			return err
		}
		out.Limits = append(out.Limits, limit)
	}
	for _, e := range c.Secrets {
		v, ok, err := s.secret(e.ID)
		if err != nil {
			return err
		}
		if !ok {
			if e.Optional {
				continue
			}
			return missingSecret(e.ID)
		}
		s.req.Env = append(s.req.Env, e.Name+"="+string(v))
	}
	for _, m := range c.Mounts {
		w, skip, err := s.mount(ctx, m, in, emit)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		if !skip {
			out.Mounts = append(out.Mounts, w)
		}
	}
	s.req.Command = out
	return nil
}

func missingSecret(id string) error {
	return fmt.Errorf("secret %s is not there: give it with --secret id=%s,src=FILE or --secret id=%s,env=NAME", id, id, id)
}

func (s *step) secret(id string) ([]byte, bool, error) {
	if s.b.Secrets == nil {
		return nil, false, nil
	}
	return s.b.Secrets.Secret(id)
}

// mount makes the request of one mount; skip leaves it out.
func (s *step) mount(ctx context.Context, m graph.Mount, in []cache.Result, emit solve.Sink) (out worker.Mount, skip bool, err error) {
	out = worker.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Selector: m.Selector, UID: m.UID, GID: m.GID, Mode: m.Mode}
	switch m.Type {
	case graph.MountTmpfs:
		out.Tmpfs, out.Size = true, m.Size
	case graph.MountSecret:
		v, ok, err := s.secret(m.ID)
		if err != nil {
			return out, false, err
		}
		if !ok && m.Optional {
			return out, true, nil
		}
		if !ok {
			return out, false, missingSecret(m.ID)
		}
		f, err := inMemory("secret", v)
		if err != nil {
			return out, false, err
		}
		out.Secret = s.file(f)
	case graph.MountSSH:
		return s.agent(m, out)
	case graph.MountCache, graph.MountBind:
		if m.Input >= 0 {
			if l := s.b.lists.get(in[m.Input]); l != nil && m.Type == graph.MountBind {
				if err := l.check(m.Selector); err != nil {
					return out, false, err
				}
			}
			if out.Lower, err = s.lower(ctx, s.b.part(in[m.Input], m.Selector), emit); err != nil {
				return out, false, err
			}
		}
		if m.Type == graph.MountCache {
			sum := sha256.Sum256([]byte("cache mount\x00" + m.ID + "\x00" + chainOf(in, m.Input) + "\x00" + m.Selector))
			out.Cache = hex.EncodeToString(sum[:])
			out.Shared, out.Locked = m.Sharing == graph.SharingShared, m.Sharing == graph.SharingLocked
			err = s.b.useMount(ctx, mountID(m), out.Cache)
		}
	default:
		return out, false, fmt.Errorf("unknown type %q", m.Type)
	}
	return out, false, err
}

func chainOf(in []cache.Result, n int) string {
	if n < 0 {
		return ""
	}
	return in[n].Chain()
}

// lower gives the trees of a mount's input.
func (s *step) lower(ctx context.Context, r cache.Result, emit solve.Sink) ([]string, error) {
	if s.b.lists.get(r) == nil {
		return s.b.trees(ctx, r.Layers, emit)
	}
	tree, err := s.b.filesTree(ctx, r)
	return []string{tree}, err
}

// agent gives the step a socket on which this process answers for the user's ssh
// agent, while the step runs.
func (s *step) agent(m graph.Mount, out worker.Mount) (worker.Mount, bool, error) {
	dial, ok := func() (net.Conn, error) { return nil, nil }, false
	var err error
	if s.b.Secrets != nil {
		dial, ok, err = s.b.Secrets.Agent(m.ID)
	}
	if err != nil {
		return out, false, err
	}
	if !ok && m.Optional {
		return out, true, nil
	}
	if !ok {
		return out, false, fmt.Errorf("there is no ssh agent %s: give it with --ssh %s", m.ID, m.ID)
	}
	out.SSH, out.ID = true, len(s.agents)
	s.agents = append(s.agents, dial)
	return out, false, nil
}

// listener serves the socket of an SSH mount until the step ends.
func (s *step) listener(n int, f *os.File) {
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil || n >= len(s.agents) {
		return
	}
	s.close = append(s.close, l)
	s.logs.Go(func() {
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { forwardConn(c, s.agents[n]) })
		}
	})
}

// forwardConn connects the two ends until one closes.
func forwardConn(c net.Conn, dial func() (net.Conn, error)) {
	defer c.Close()
	to, err := dial()
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, c)
		_ = to.Close()
	}()
	_, _ = io.Copy(c, to)
	_ = c.Close()
	<-done
}

// limits are the resources that ulimit flags name.
var limits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// resourceLimit gives a limit in the kernel's terms. Nobody may raise a hard
// limit without privilege over the machine.
func resourceLimit(l graph.Limit) (worker.Limit, error) {
	n, ok := limits[l.Name]
	if !ok {
		return worker.Limit{}, fmt.Errorf("ulimit %s: there is no such limit", l.Name)
	}
	out := worker.Limit{Resource: n, Cur: unlimited(l.Soft), Max: unlimited(l.Hard)}
	var now unix.Rlimit
	if err := unix.Getrlimit(n, &now); err != nil {
		return out, fmt.Errorf("read limit %s: %w", l.Name, err)
	}
	if out.Max > now.Max {
		return out, fmt.Errorf("ulimit %s: this process may have at most %d: ask for no more", l.Name, now.Max)
	}
	if out.Cur > out.Max {
		return out, errors.New("ulimit " + l.Name + ": the soft limit is above the hard one")
	}
	return out, nil
}

func unlimited(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64
	}
	return uint64(n)
}
