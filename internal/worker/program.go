// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/snapshot"
)

// program opens this program in a form that can be shown in steps. Where root
// started the worker it runs from a mount that is attached nowhere, which
// cannot be copied into a step: then it is kept as a file in the tree area,
// one for each version of the program.
func (s *server) program() (*os.File, error) {
	const self = "/proc/self/exe"
	if err := static(self); err != nil {
		return nil, err
	}
	exe, err := os.OpenFile(self, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if clone, err := mount.Clone(exe, false); err == nil {
		_ = clone.Close()
		return exe, nil
	}
	defer exe.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(exe.Fd()), &st); err != nil {
		return nil, err
	}
	version := fmt.Sprintln("program", st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
	sum := sha256.Sum256([]byte(version))
	tree := snapshot.FilesTree(hex.EncodeToString(sum[:]))
	kept := filepath.Join(s.driver.Path(tree), "stacker")
	if info, err := os.Lstat(kept); err != nil || !info.Mode().IsRegular() || info.Size() != st.Size {
		if err := errors.Join(s.driver.Remove(tree), s.keepProgram(self, tree)); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(kept, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// errDynamic is told where the loader of a step's image would be asked for.
var errDynamic = errors.New("this stacker is no static program, so that it does not start in steps: build it with CGO_ENABLED=0")

// static fails where a program needs a loader, which images need not have.
func static(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errDynamic
		}
	}
	return nil
}

func (s *server) keepProgram(self, tree string) (err error) {
	id := s.session.newID()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.driver.Discard(id)) }()
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "stacker"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Close()); err != nil {
		return err
	}
	return s.driver.Adopt(dir, tree)
}
