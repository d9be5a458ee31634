// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"errors"
	"os"
	"syscall"
)

// receive reads the Step from the control socket, and the root and the mounts. The step's
// streams become this process's.
func receive() (*Step, []*os.File, error) {
	m, err := receiveMessage(0)
	if err != nil {
		return nil, nil, err
	}
	return m.step, m.files[streams:], takeStreams(m.files[:streams])
}

// message is what the worker sends for one step.
type message struct {
	step  *Step
	files []*os.File // the streams, the root, the mounts, and more
	raw   []byte     // where the strings of the step are
}

// close closes the files, and wipes out what was said: it may have been a secret, and the
// memory of a forking process is copied to the next step's first one.
func (m *message) close() {
	for _, f := range m.files {
		_ = f.Close() // nothing was written by this process
	}
	clear(m.raw)
}

// errClosed says that there will be no more steps.
var errClosed = errors.New("the worker is gone")

// receiveMessage reads a message with so many more files than each has.
func receiveMessage(more int) (*message, error) {
	var head [8]byte
	files, err := receiveFiles(head[:])
	if err != nil {
		return nil, err
	}
	n := int(uint32At(head[4:]))
	for len(files) < n {
		rest, err := receiveFiles(head[4:5])
		if err != nil {
			return nil, err
		}
		files = append(files, rest...)
	}
	m := &message{files: files, raw: make([]byte, uint32At(head[:]))}
	if err := readFull(m.raw); err != nil {
		return nil, err
	}
	m.step, err = Decode(m.raw)
	if err == nil && len(files) != len(m.step.Mounts)+streams+1+more {
		err = errMessage
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// streams is how many descriptors come before those of mounts: the command's
// standard streams.
const streams = 3

func takeStreams(files []*os.File) error {
	for i, f := range files {
		if err := syscall.Dup3(int(f.Fd()), i, 0); err != nil {
			return fail("take standard streams", err)
		}
		if err := f.Close(); err != nil {
			return fail("take standard streams", err)
		}
	}
	return nil
}

// receiveFiles reads b and the descriptors that come with it.
func receiveFiles(b []byte) ([]*os.File, error) {
	var oob [1100]byte
	n, oobn, _, _, err := syscall.Recvmsg(controlFd, b, oob[:], syscall.MSG_CMSG_CLOEXEC|syscall.MSG_WAITALL)
	for err == syscall.EINTR {
		n, oobn, _, _, err = syscall.Recvmsg(controlFd, b, oob[:], syscall.MSG_CMSG_CLOEXEC|syscall.MSG_WAITALL)
	}
	if err == nil && n == 0 {
		return nil, errClosed
	}
	if err == nil && n != len(b) {
		err = errMessage
	}
	if err != nil {
		return nil, fail("read step", err)
	}
	var files []*os.File
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return nil, fail("read step", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "mount"))
		}
	}
	if err == nil && len(files) == 0 {
		err = errMessage
	}
	return files, fail("read step", err)
}

func readFull(b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Read(controlFd, b)
		if err == syscall.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = errMessage
		}
		if err != nil {
			return fail("read step", err)
		}
		b = b[n:]
	}
	return nil
}

func uint32At(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// Kinds of report that go back over the control socket. A report is its kind, the
// length of what follows (four bytes, little endian), and that.
const (
	ReportConsole = 'c' // nothing follows; the terminal's master end rides on it
	ReportError   = 'e' // errno and ELF machine (four bytes each), and text: the command did not start
	ReportExit    = 'x' // five numbers: code, signal, microseconds user and system, KiB
	ReportStatus  = 'w' // five numbers of eight bytes: status of wait(2), microseconds user and system, KiB, Outcome.Alone
	ReportBegun   = 'b' // of a forking process: nothing follows; the command runs
)

// Outcome is what a report says.
type Outcome struct {
	Code, Signal int
	User, System int64 // microseconds
	MaxRSS       int64 // KiB
	Err          string
	Errno        syscall.Errno
	Machine      uint16 // of the command, where that is why it did not start
	Ended        bool
	Alone        bool // all other processes of the step have ended, too
}

func report(err error) {
	var errno syscall.Errno
	errors.As(err, &errno)
	machine := uint32(0)
	if f, ok := err.(*foreign); ok {
		machine = uint32(f.machine)
	}
	b := append(le32(le32(nil, uint32(errno)), machine), err.Error()...)
	send(ReportError, b, nil)
}

func reportExit(status syscall.WaitStatus) {
	var use syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &use) // zero is as good as an error
	code, signal := codes(status)
	var e encoder
	e.number(uint64(code))
	e.number(uint64(signal))
	e.number(uint64(use.Utime.Sec*1e6 + int64(use.Utime.Usec)))
	e.number(uint64(use.Stime.Sec*1e6 + int64(use.Stime.Usec)))
	e.number(uint64(use.Maxrss))
	send(ReportExit, e.b, nil)
}

// codes gives the exit status, which is 128 and the signal after a signal, and the signal.
func codes(status syscall.WaitStatus) (code, signal int) {
	if status.Signaled() {
		return 128 + int(status.Signal()), int(status.Signal())
	}
	return status.ExitStatus(), 0
}

func sendConsole(master int) error {
	return send(ReportConsole, nil, syscall.UnixRights(master))
}

func send(kind byte, b, rights []byte) error {
	msg := append(le32([]byte{kind}, uint32(len(b))), b...)
	return syscall.Sendmsg(controlFd, msg, rights, nil, 0)
}

func le32(b []byte, v uint32) []byte {
	return append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}

// ParseReport reads what follows a report of the kind.
func ParseReport(kind byte, b []byte) (Outcome, error) {
	switch kind {
	case ReportError:
		if len(b) < 8 {
			return Outcome{}, errMessage
		}
		return Outcome{Err: string(b[8:]), Errno: syscall.Errno(uint32At(b)), Machine: uint16(uint32At(b[4:]))}, nil
	case ReportStatus:
		if len(b) != 40 {
			return Outcome{}, errMessage
		}
		n := func(i int) uint64 { return uint64(uint32At(b[8*i:])) | uint64(uint32At(b[8*i+4:]))<<32 }
		o := Outcome{User: int64(n(1)), System: int64(n(2)), MaxRSS: int64(n(3)), Ended: true, Alone: n(4) == 1}
		o.Code, o.Signal = codes(syscall.WaitStatus(n(0)))
		return o, nil
	case ReportExit:
		d := decoder{b: b}
		o := Outcome{
			Code: int(d.number()), Signal: int(d.number()),
			User: int64(d.number()), System: int64(d.number()), MaxRSS: int64(d.number()),
			Ended: true,
		}
		if d.bad {
			return Outcome{}, errMessage
		}
		return o, nil
	}
	return Outcome{}, errMessage
}
