// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A call has a socket of its own. Its messages are frames of a 4-byte length
// (big endian) and that much JSON; files ride on a frame's first byte
// (SCM_RIGHTS). The caller sends one request frame and reads reply frames until
// one has an error or a value. Closing the socket early cancels the call.
const (
	maxFrame = 64 << 20
	maxFiles = 250 // the kernel's SCM_MAX_FD is 253
)

// conn is one end of a call's socket.
type conn struct{ c *net.UnixConn }

// reply is what the worker sends back.
type reply struct {
	Error *remoteError    `json:"error,omitempty"`
	Event json.RawMessage `json:"event,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// remoteError carries an error over the socket with what callers ask it for.
type remoteError struct {
	Text     string `json:"text"`
	NotExist bool   `json:"notExist,omitempty"`
	NoSpace  bool   `json:"noSpace,omitempty"`
	Mismatch bool   `json:"mismatch,omitempty"`
	Names    bool   `json:"names,omitempty"`
}

// Error implements error.
func (e *remoteError) Error() string { return e.Text }

// Is lets callers ask for the sentinel behind the text.
func (e *remoteError) Is(target error) bool {
	return e.NotExist && target == os.ErrNotExist ||
		e.NoSpace && target == error(unix.ENOSPC) ||
		e.Mismatch && target == ErrMismatch ||
		e.Names && target == ErrNames
}

func toRemote(err error) *remoteError {
	return &remoteError{
		Text:     err.Error(),
		NotExist: errors.Is(err, os.ErrNotExist),
		NoSpace:  errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT),
		Mismatch: errors.Is(err, ErrMismatch),
		Names:    errors.Is(err, ErrNames),
	}
}

func (k conn) send(v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(files) > maxFiles {
		return fmt.Errorf("send message: %d files are more than %d", len(files), maxFiles)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	n, _, err := k.c.WriteMsgUnix(frame, oob, nil)
	if err == nil && n < len(frame) {
		_, err = k.c.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// receive reads one frame into v and returns the files that came with it.
func (k conn) receive(v any) ([]*os.File, error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := k.c.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, fmt.Errorf("receive message: %w", err)
	}
	files, err := rights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if n == 0 {
		closeAll(files)
		return nil, io.EOF
	}
	if flags&unix.MSG_CTRUNC != 0 {
		closeAll(files)
		return nil, errors.New("receive message: files were lost: the limit of open files is too low (see ulimit -n)")
	}
	if _, err := io.ReadFull(k.c, head[n:]); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("receive message: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxFrame {
		closeAll(files)
		return nil, fmt.Errorf("receive message: %d bytes are more than %d", size, maxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(k.c, body); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("receive message: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return files, nil
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive files: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // not SCM_RIGHTS
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pair makes the two ends of a call's socket.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket: %w", err)
	}
	here := os.NewFile(uintptr(fds[0]), "call")
	there := os.NewFile(uintptr(fds[1]), "call")
	c, err := toConn(here)
	if err != nil {
		_ = there.Close()
		return nil, nil, err
	}
	return c, there, nil
}

// toConn turns a socket's file into a connection; the file is closed.
func toConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("use socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("use socket: not a unix socket")
	}
	return u, nil
}
