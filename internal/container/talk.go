// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
)

// maxReport bounds what init reports: a number or two, or an error.
const maxReport = 64 << 10

var errSilent = errors.New("the container ended without a word: was its first process killed, for want of memory?")

// maxRights is how many descriptors go in one message; the kernel's limit is 253
// (SCM_MAX_FD).
const maxRights = 200

// tell sends the step to init: the length of the message and the number of
// descriptors, these, and the message.
func (r *run) tell() error { return r.tellTo(r.init.control, r.mounts) }

func (r *run) tellTo(c *net.UnixConn, files []*os.File) error {
	msg := r.step.Encode()
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(msg)))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(files)))
	for b, rest := head, files; len(rest) > 0; b = head[:1] {
		n := min(len(rest), maxRights)
		fds := make([]int, n)
		for i, f := range rest[:n] {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.WriteMsgUnix(b, unix.UnixRights(fds...), nil); err != nil {
			return errSilent
		}
		rest = rest[n:]
	}
	if _, err := c.Write(msg); err != nil {
		return errSilent
	}
	// Only init has the mounts now: they go when it goes.
	r.closeFiles()
	return nil
}

// talk sends the step to init and reads its reports.
func (r *run) talk() (initproc.Outcome, error) {
	if r.begin != nil {
		out, err := r.begin()
		if err != nil || out.Err != "" {
			return out, err
		}
	} else if err := r.tell(); err != nil {
		return initproc.Outcome{}, err
	}
	for {
		kind, body, err := r.readReport(r.init.control)
		if err != nil {
			return initproc.Outcome{}, err
		}
		if kind != initproc.ReportConsole {
			return initproc.ParseReport(kind, body)
		}
	}
}

// readReport reads one report. A descriptor comes with the first byte of it.
func (r *run) readReport(c *net.UnixConn) (byte, []byte, error) {
	var head [5]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:1], oob)
	if err != nil || n == 0 {
		return 0, nil, errSilent
	}
	if oobn > 0 {
		if err := r.console(oob[:oobn]); err != nil {
			return 0, nil, err
		}
	}
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return 0, nil, errSilent
	}
	size := binary.LittleEndian.Uint32(head[1:])
	if size > maxReport {
		return 0, nil, fmt.Errorf("report of container's init has %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return 0, nil, errSilent
	}
	return head[0], body, nil
}

// console hands on the other end of the step's terminal.
func (r *run) console(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("receive terminal: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.spec.OnConsole(os.NewFile(uintptr(fd), "terminal"))
		}
	}
	return nil
}
