// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package llb

import (
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"build.stacker.dev/internal/graph"
)

// exec fills in a vertex that runs a command. Its first input is the root; the
// mounts number the others.
func (l *loader) exec(v *graph.Vertex, op *pb.Op, e *pb.ExecOp) error {
	if e.Meta == nil || len(e.Meta.Args) == 0 {
		return errors.New("LLB exec op without a command")
	}
	if err := l.refuseExec(op, e); err != nil {
		return err
	}
	cmd := &graph.Command{User: e.Meta.User, Hostname: e.Meta.Hostname}
	x := graph.Exec{Args: e.Meta.Args, Dir: e.Meta.Cwd, Clamp: l.Clamp, Command: cmd, Network: graph.NetworkHost, Ambient: l.proxies(e.Meta)}
	if e.Network == pb.NetMode_NONE {
		x.Network = graph.NetworkNone
	}
	x.Privileged = e.Security == pb.SecurityMode_INSECURE
	for _, kv := range e.Meta.Env {
		k, val, _ := strings.Cut(kv, "=")
		x.Env = append(x.Env, graph.KV{Key: k, Value: val})
	}
	for _, h := range e.Meta.ExtraHosts {
		cmd.Hosts = append(cmd.Hosts, graph.KV{Key: h.Host, Value: h.IP})
	}
	cmd.Limits = append(cmd.Limits, l.Limits...)
	for _, u := range e.Meta.Ulimit {
		cmd.Limits = append(cmd.Limits, graph.Limit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, c := range e.Meta.ValidExitCodes {
		cmd.ExitCodes = append(cmd.ExitCodes, int(c))
	}
	for _, s := range e.Secretenv {
		cmd.Secrets = append(cmd.Secrets, graph.SecretEnv{Name: s.Name, ID: s.ID, Optional: s.Optional})
	}
	if err := l.mounts(v, op, e.Mounts, cmd); err != nil {
		return err
	}
	v.Op = x
	return nil
}

// refuseExec names what cannot be done for a step.
func (l *loader) refuseExec(op *pb.Op, e *pb.ExecOp) error {
	switch {
	case len(e.CdiDevices) > 0:
		return fmt.Errorf("device %s: steps cannot have devices of this machine", e.CdiDevices[0].Name)
	case e.Meta.CgroupParent != "":
		return fmt.Errorf("cgroup parent %s: steps have no control group of their own", e.Meta.CgroupParent)
	case e.Security == pb.SecurityMode_INSECURE && !l.AllowInsecure:
		return errors.New("security=insecure is not allowed: allow it with --allow security.insecure")
	}
	return nil
}

// proxies are variables that steps see and that cannot change a result.
func (l *loader) proxies(m *pb.Meta) []graph.KV {
	out := append([]graph.KV(nil), l.Proxies...)
	if p := m.ProxyEnv; p != nil {
		for name, value := range map[string]string{
			"HTTP_PROXY": p.HttpProxy, "HTTPS_PROXY": p.HttpsProxy, "FTP_PROXY": p.FtpProxy, "NO_PROXY": p.NoProxy, "ALL_PROXY": p.AllProxy,
		} {
			if value != "" {
				out = append(out, graph.KV{Key: name, Value: value}, graph.KV{Key: strings.ToLower(name), Value: value})
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

// mounts makes input 0 of the mount on / and adds the others.
func (l *loader) mounts(v *graph.Vertex, op *pb.Op, all []*pb.Mount, cmd *graph.Command) error {
	v.Inputs = []*graph.Vertex{nil}
	for _, m := range all {
		if m.Dest == "/" {
			root, err := l.at(op, m.Input)
			if err != nil {
				return err
			}
			if m.MountType != pb.MountType_BIND || m.Selector != "" || m.Readonly {
				return errors.New("LLB exec op: its root must be a whole root file system that can be written to")
			}
			if m.Output != 0 {
				return errors.New("LLB exec op: its root must be its first output")
			}
			v.Inputs[0] = root
			continue
		}
		if err := l.mount(v, op, m, cmd); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Dest, err)
		}
	}
	if v.Inputs[0] == nil {
		return errors.New("LLB exec op without a root")
	}
	return nil
}

func (l *loader) mount(v *graph.Vertex, op *pb.Op, m *pb.Mount, cmd *graph.Command) error {
	out := graph.Mount{Target: path.Join("/", m.Dest), Input: -1, Selector: m.Selector, ReadOnly: m.Readonly}
	// Secret and ssh mounts carry output 0 by mistake: the type decides.
	if m.MountType == pb.MountType_BIND && m.Output >= 0 {
		return errors.New("changes to a mount cannot be kept: only the root of a step is a result")
	}
	switch m.MountType {
	case pb.MountType_BIND, pb.MountType_CACHE:
		out.Type = graph.MountBind
		if m.MountType == pb.MountType_CACHE {
			out.Type, out.ID = graph.MountCache, m.CacheOpt.GetID()
			out.Sharing = [...]graph.Sharing{graph.SharingShared, graph.SharingPrivate, graph.SharingLocked}[m.CacheOpt.GetSharing()%3]
		}
		if m.Input >= 0 {
			in, err := l.at(op, m.Input)
			if err != nil {
				return err
			}
			v.Inputs = append(v.Inputs, in)
			out.Input = len(v.Inputs) - 1
		}
	case pb.MountType_TMPFS:
		if out.Target == "/dev/shm" {
			cmd.ShmSize = m.TmpfsOpt.GetSize()
			return nil
		}
		out.Type, out.Size = graph.MountTmpfs, m.TmpfsOpt.GetSize()
	case pb.MountType_SECRET:
		o := m.SecretOpt
		out.Type, out.ID, out.UID, out.GID, out.Mode, out.Optional = graph.MountSecret, o.GetID(), o.GetUid(), o.GetGid(), o.GetMode(), o.GetOptional()
	case pb.MountType_SSH:
		o := m.SSHOpt
		id := o.GetID()
		if id == "" {
			id = "default"
		}
		out.Type, out.ID, out.UID, out.GID, out.Mode, out.Optional = graph.MountSSH, id, o.GetUid(), o.GetGid(), o.GetMode(), o.GetOptional()
	default:
		return fmt.Errorf("type %s is not supported", m.MountType)
	}
	cmd.Mounts = append(cmd.Mounts, out)
	return nil
}
