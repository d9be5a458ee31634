// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package llb

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/graph"
)

// file fills in a vertex that changes files. Actions must follow each other:
// each works on what the one before made, and the last gives the result.
func (l *loader) file(v *graph.Vertex, op *pb.Op, f *pb.FileOp) error {
	if len(f.Actions) == 0 {
		return errors.New("LLB file op without actions")
	}
	base, err := l.at(op, f.Actions[0].Input)
	if err != nil {
		return err
	}
	v.Inputs = []*graph.Vertex{base}
	c := graph.Change{Clamp: l.Clamp}
	inputs := int64(len(op.Inputs))
	for i, a := range f.Actions {
		if i > 0 && a.Input != inputs+int64(i)-1 || (a.Output == 0) != (i == len(f.Actions)-1) {
			return errors.New("LLB file op: only actions that follow each other are supported")
		}
		x, err := l.action(v, op, a)
		if err != nil {
			return err
		}
		c.Actions = append(c.Actions, x)
	}
	v.Op = c
	return nil
}

func (l *loader) action(v *graph.Vertex, op *pb.Op, a *pb.FileAction) (out action.Action, err error) {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		out.Copy, err = l.copy(v, op, a.SecondaryInput, x.Copy)
	case *pb.FileAction_Mkfile:
		m := x.Mkfile
		out.File = &action.File{Path: m.Path, Mode: permission(m.Mode), Data: m.Data, Owner: owner(m.Owner), Time: timestamp(m.Timestamp)}
	case *pb.FileAction_Mkdir:
		m := x.Mkdir
		out.Dir = &action.Dir{Path: m.Path, Mode: permission(m.Mode), Parents: m.MakeParents, Owner: owner(m.Owner), Time: timestamp(m.Timestamp)}
	case *pb.FileAction_Rm:
		out.Remove = &action.Remove{Path: x.Rm.Path, AllowNone: x.Rm.AllowNotFound, Wildcard: x.Rm.AllowWildcard}
	case *pb.FileAction_Symlink:
		m := x.Symlink
		out.Symlink = &action.Symlink{Path: m.Newpath, Target: m.Oldpath, Owner: owner(m.Owner), Time: timestamp(m.Timestamp)}
	default:
		err = fmt.Errorf("LLB file action %T is not supported", a.Action)
	}
	return out, err
}

func (l *loader) copy(v *graph.Vertex, op *pb.Op, input int64, c *pb.FileActionCopy) (*action.Copy, error) {
	if input >= int64(len(op.Inputs)) {
		return nil, errors.New("LLB file op: a copy from another action's result is not supported")
	}
	src, err := l.at(op, input)
	if err != nil {
		return nil, err
	}
	n := -1
	for i := 1; i < len(v.Inputs); i++ {
		if v.Inputs[i] == src {
			n = i
		}
	}
	if n < 0 {
		v.Inputs = append(v.Inputs, src)
		n = len(v.Inputs) - 1
	}
	out := &action.Copy{
		Input: n, Src: c.Src, Dest: c.Dest, Owner: owner(c.Owner), ModeText: c.ModeStr,
		FollowLinks: c.FollowSymlink, ContentsOnly: c.DirCopyContents, Unpack: c.AttemptUnpackDockerCompatibility,
		MakeDest: c.CreateDestPath, Wildcard: c.AllowWildcard, AllowNone: c.AllowEmptyWildcard,
		Replace: c.AlwaysReplaceExistingDestPaths, Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
		Required: c.RequiredPaths, Time: timestamp(c.Timestamp),
	}
	if c.ModeStr == "" && c.Mode != -1 {
		m := permission(c.Mode)
		out.Mode = &m
	}
	return out, nil
}

func permission(mode int32) uint32 { return uint32(mode) & 0o7777 }

// timestamp leaves out what stands for "none".
func timestamp(ns int64) *int64 {
	if ns == -1 {
		return nil
	}
	return &ns
}

func owner(o *pb.ChownOpt) *action.Owner {
	if o == nil {
		return nil
	}
	return &action.Owner{User: id(o.User), Group: id(o.Group)}
}

func id(u *pb.UserOpt) *action.ID {
	switch x := u.GetUser().(type) {
	case *pb.UserOpt_ByName:
		return &action.ID{Name: x.ByName.GetName()}
	case *pb.UserOpt_ByID:
		return &action.ID{Number: x.ByID}
	}
	return nil
}
