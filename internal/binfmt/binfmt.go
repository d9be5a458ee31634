// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package binfmt gets programs for other machines to run.
//
// The kernel runs them where it knows an emulator for them (binfmt_misc). Usually
// root tells it, for all users. Since Linux 6.7 each user namespace can have a
// list of its own, so that an emulator that is merely installed is enough: it is
// told to the kernel for the user namespace that this process is root of, and is
// forgotten with it. Where the kernel knows an emulator already, that one is used.
//
// Whether a program can run is found by running one.
package binfmt

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
)

// Registry is what this process has told the kernel. The zero value is ready. It
// is safe for use by several goroutines.
type Registry struct {
	mu    sync.Mutex
	mount *os.File // keeps the list of the user namespace
}

// Ensure sees to it that programs for an architecture run in this user namespace.
// dir is a directory for a program to try; search has the directories of emulators,
// as PATH has. The error says what is missing.
//
// Nothing is remembered: as soon as this user namespace has a list of its own, those of
// the machine's emulators count no more that are not in it.
func (r *Registry) Ensure(dir, arch, search string) error {
	m, ok := machines[arch]
	if !ok {
		return fmt.Errorf("no emulator is known for %s", arch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	file := filepath.Join(dir, "program-"+arch)
	if err := os.WriteFile(file, m.program(), 0o755); err != nil {
		return fmt.Errorf("write a program to try: %w", err)
	}
	defer os.Remove(file)
	if runs(file) {
		return nil
	}
	emulator, err := m.find(search)
	if err != nil {
		return err
	}
	if err := r.register(m.line(arch, emulator)); err != nil {
		return fmt.Errorf("register %s: %w", emulator, err)
	}
	if !runs(file) {
		return fmt.Errorf("%s does not run them", emulator)
	}
	return nil
}

// find looks for an emulator. One that needs a loader will not do: that would be looked for
// in the root file system of the step.
func (m machine) find(search string) (string, error) {
	var unusable error
	for _, name := range []string{m.emulator + "-static", m.emulator} {
		for _, dir := range filepath.SplitList(search) {
			path := filepath.Join(dir, name)
			if !filepath.IsAbs(path) {
				continue
			}
			f, err := elf.Open(path)
			if err != nil {
				continue
			}
			linked := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
			_ = f.Close()
			if !linked {
				return path, nil
			}
			unusable = fmt.Errorf("%s is linked dynamically, and a step's root file system has not what it needs", path)
		}
	}
	if unusable != nil {
		return "", unusable
	}
	return "", fmt.Errorf("there is no %s-static in PATH", m.emulator)
}

// runs tells whether a program ends well. One that was just written can be busy: another
// thread's child has its descriptor until that executes something.
func runs(file string) bool {
	for range 100 {
		err := exec.Command(file).Run()
		if !errors.Is(err, unix.ETXTBSY) {
			return err == nil
		}
	}
	return false
}

// register adds a line to the list of this user namespace. The kernel refuses before
// Linux 6.7, where the list was everybody's.
func (r *Registry) register(line string) error {
	if r.mount == nil {
		m, err := mount.New("binfmt_misc", mount.NoSuid|mount.NoDev|mount.NoExec)
		if err != nil {
			return err
		}
		r.mount = m
	}
	fd, err := unix.Openat(int(r.mount.Fd()), "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(line))
	return err
}
