// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/blob"
)

// section opens a part of the content.
func (u *upload) section(offset, size int64) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		r, err := u.open(u.ctx)
		if err != nil {
			return nil, err
		}
		f, plain := r.(*os.File)
		if !plain {
			f, plain = blob.Unverified(r)
		}
		if plain {
			u.trusted = true
			return newFileBody(f, offset, size, u.tell)
		}
		if u.tell != nil {
			r = &watched{ReadCloser: r, tell: u.tell}
		}
		if err := skipTo(r, offset); err != nil {
			_ = r.Close()
			return nil, fmt.Errorf("read content at %d: %w", offset, err)
		}
		return &section{Reader: io.LimitReader(r, size), Closer: r}, nil
	}
}

// errNoSeek is returned by content that can only be read.
var errNoSeek = errors.New("cannot seek")

// skipTo passes over the first offset bytes of content that was just opened.
func skipTo(r io.Reader, offset int64) error {
	if s, ok := r.(io.Seeker); ok {
		if _, err := s.Seek(offset, io.SeekStart); !errors.Is(err, errNoSeek) {
			return err
		}
	}
	_, err := io.CopyN(io.Discard, r, offset)
	return err
}

type section struct {
	io.Reader
	io.Closer
}

// confirm makes sure that what was sent is the blob. A registry that names the digest
// has looked at it; with any other one we do that, where nobody has.
func (u *upload) confirm(said digest.Digest) error {
	if !u.trusted || said == u.desc.Digest {
		return nil
	}
	return u.verify()
}

// verify reads the content, and tells whether it is the blob.
func (u *upload) verify() error {
	r, err := u.open(u.ctx)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_, err = io.Copy(io.Discard, blob.Verify(r, u.desc))
	return err
}

// explain adds to what a registry refused at the end that it was damaged here already.
func (u *upload) explain(failure error) error {
	if !u.trusted || !u.whole || u.offset < u.have {
		return failure
	}
	return errors.Join(u.verify(), failure)
}

// tellEvery is how often somebody is told how far a file is.
const tellEvery = 200 * time.Millisecond

// fileBody is a part of a file on its way up. Over plain HTTP the kernel sends it:
// net/http hands a body that is a syscall.Conn to sendfile(2), with the length of the
// request. Then nobody calls Read, and the file's offset alone says how far it is.
type fileBody struct {
	file  *os.File
	end   int64
	last  int64 // offset when the guard looked
	ended bool  // the guard has seen that all is sent
	guard *guard

	mu     sync.Mutex
	closed bool
	tell   func(done int64)
	timer  *time.Timer
}

// newFileBody takes over the file. tell may be nil.
func newFileBody(f *os.File, offset, size int64, tell func(int64)) (io.ReadCloser, error) {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read content at %d: %w", offset, err)
	}
	b := &fileBody{file: f, end: offset + size, last: offset, tell: tell}
	if tell != nil {
		b.timer = time.AfterFunc(tellEvery, b.report)
	}
	return b, nil
}

// watch lets a guard see how far the file is.
func (b *fileBody) watch(g *guard) {
	b.guard = g
	g.moving = b.moving
}

// moving is for how long the guard may wait. When all is sent the registry digests it.
func (b *fileBody) moving() time.Duration {
	at := b.offset()
	switch {
	case at != b.last:
		b.last = at
		return b.guard.limit
	case at >= b.end && !b.ended:
		b.ended = true
		return answerFactor * b.guard.limit
	}
	return 0
}

// offset returns how far the file is; its end once it is closed.
func (b *fileBody) offset() int64 {
	at, err := b.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return b.end
	}
	return at
}

// Read implements io.Reader. It ends with the part, also where the kernel has sent it.
func (b *fileBody) Read(p []byte) (int, error) {
	left := b.end - b.offset()
	if left <= 0 {
		return 0, io.EOF
	}
	return b.file.Read(p[:min(int64(len(p)), left)])
}

// SyscallConn implements syscall.Conn: see fileBody.
func (b *fileBody) SyscallConn() (syscall.RawConn, error) { return b.file.SyscallConn() }

// report tells how far the file is, and comes again.
func (b *fileBody) report() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.tell(min(b.offset(), b.end))
		b.timer.Reset(tellEvery)
	}
}

// Close implements io.Closer.
func (b *fileBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
		b.tell(min(b.offset(), b.end))
	}
	return b.file.Close()
}
