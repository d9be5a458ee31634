// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/gateway/client"
)

// call answers one question with BuildKit's own texts.
func (s *source) call(ctx context.Context, question string, asJSON bool) ([]byte, bool, error) {
	opt := s.convertOptions()
	opt.Warn = nil
	var r *client.Result
	switch question {
	case "check", "lint":
		found, err := dockerfile2llb.DockerfileLint(ctx, s.src.Data, opt)
		if err != nil {
			return nil, false, err
		}
		r, err = found.ToResult(nil)
		if err != nil {
			return nil, false, err
		}
		if found.Error != nil && !asJSON {
			return r.Metadata["result.txt"], true, fmt.Errorf("%s", found.Error.Message)
		}
	case "outline":
		o, err := dockerfile2llb.Dockerfile2Outline(ctx, s.src.Data, opt)
		if err != nil {
			return nil, false, err
		}
		if r, err = o.ToResult(); err != nil {
			return nil, false, err
		}
	case "targets":
		l, err := dockerfile2llb.ListTargets(ctx, s.src.Data)
		if err != nil {
			return nil, false, err
		}
		if r, err = l.ToResult(); err != nil {
			return nil, false, err
		}
	default:
		return nil, false, fmt.Errorf("--call %s: it is build, check, outline or targets", question)
	}
	failed := string(r.Metadata["result.statuscode"]) == "1"
	if asJSON {
		return append(r.Metadata["result.json"], '\n'), failed, nil
	}
	return r.Metadata["result.txt"], failed, nil
}
