// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// hostsPath is where steps look names up first.
const hostsPath = "/etc/hosts"

// maxHosts bounds what is read of the image's file, in bytes.
const maxHosts = 64 << 10

// noHosts stands for the file of an image that has none.
const noHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// ownNames are the names that a step's machine calls itself by.
func (s *server) ownNames(hostname string) string {
	if own, err := os.Hostname(); s.bare && err == nil {
		hostname += " " + own // which steps have, too, whatever was asked for
	}
	return hostname
}

// showHosts shows a file as /etc/hosts in the step. What the step writes to it is lost
// with it.
func showHosts(a snapshot.Active, spec *container.Spec, text string) error {
	file := filepath.Join(a.Extra, "..", "hosts")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	spec.Mounts = append(spec.Mounts, container.Mount{Source: file, Own: true, Target: hostsPath, File: true})
	return nil
}

// hosts shows the image's /etc/hosts and, behind that, the machine's own name: sudo and
// others look it up. Where the image has no file there but something else, or the user shows a
// file, that is left.
func (s *server) hosts(r ExecRequest, a snapshot.Active, spec *container.Spec) error {
	if slices.ContainsFunc(r.Binds, func(b Bind) bool { return rootfs.Clean(b.Target) == rootfs.Clean(hostsPath) }) {
		return nil
	}
	text, ok, err := s.imageHosts(r.Lower)
	if err != nil || !ok {
		return err
	}
	names := s.ownNames(spec.Hostname)
	if !strings.Contains(text, "localhost") {
		text = noHosts + text
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return showHosts(a, spec, text+"127.0.0.1\t"+names+"\n")
}

// imageHosts reads /etc/hosts of a stack of trees; ok is false for what is no file or a
// huge one.
func (s *server) imageHosts(lower []string) (text string, ok bool, err error) {
	if len(lower) == 0 {
		return "", true, nil
	}
	stack, err := layer.OpenStack(s.paths(lower))
	if err != nil {
		return "", false, err
	}
	defer stack.Close()
	found, err := stack.Lookup(hostsPath, true)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return "", true, nil
	case err != nil:
		return "", false, fmt.Errorf("look at %s: %w", hostsPath, err)
	case found.Stat.Mode&unix.S_IFMT != unix.S_IFREG, found.Stat.Size > maxHosts:
		return "", false, nil
	}
	f, err := stack.Root(found.Layer).OpenFile(found.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", hostsPath, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHosts))
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", hostsPath, err)
	}
	return string(data), true, nil
}
