// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package seccomp makes the filter that stands between a step and the kernel: which system
// calls a RUN command may make. It turns profile.txt and a set of options into a program of
// classic BPF. It does not install it: package install below does, in the init of a step.
//
// The profile follows the one that Docker's users know: everything that building software
// needs is allowed, what reaches rarely used kernel code or what outlives the container is
// not. A refused call gives EPERM, a call that the profile does not know gives ENOSYS, which is
// what an older kernel would say and what programs are prepared for.
//
// Invariants: no rule looks behind a pointer (the process could change what is there after the
// check); only the 32 bits of an argument that the kernel reads are compared; a rule that
// depends on nothing but the number uses only the instructions that the kernel itself can
// evaluate when the filter is loaded (Linux 5.11), so that an allowed call then runs no filter.
package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
)

// Options says what a step may do beyond the default. The zero value is the strictest.
type Options struct {
	// Caps is the set of capabilities that the step holds: bit n stands for the capability
	// with number n of linux/capability.h. Calls that are of no use without a capability are
	// refused when it is missing, so that the code behind them cannot be reached.
	Caps uint64
	// AllowUserns lets the step make namespaces and mounts, for builds that build
	// containers themselves.
	AllowUserns bool
	// Socketcall allows socketcall(2) of 32-bit x86, whose address family a filter cannot
	// see. Wanted only for images of platform linux/386: their C library knows no other way.
	Socketcall bool
	// Supervise hands the calls of supervised.go over to the listener of the filter
	// (install.Listen), where the profile allows them. Of the machine's own
	// architecture only: 32-bit programs are on their own.
	Supervise bool
	// Virtual hands over every call that names a file, a process or an id (virtual.go), for
	// steps whose whole view of files is made by the listener: none of them reaches the
	// kernel as the step made it. Programs of other architectures cannot run then.
	Virtual bool
	// OwnLimits refuses to change limits by the number of a process, for steps that see those
	// of others: the kernel allows it to who has the same ids, and a process whose limit of
	// processor time is lowered is killed. landlock does not keep from that.
	OwnLimits bool
	// AskRoot hands chroot(2) over to the listener of the filter, of the machine's own architecture
	// only, whatever Caps says.
	AskRoot bool
	// NoNetwork refuses every socket but those of the machine itself (AF_UNIX).
	NoNetwork bool
}

// Program returns the filter for the running architecture and for the 32-bit one that it can
// run, as an array of struct sock_filter in native byte order.
func Program(o Options) ([]byte, error) {
	return programFor(runtime.GOARCH, o)
}

func programFor(goarch string, o Options) ([]byte, error) {
	var arches []arch
	switch goarch {
	case "amd64":
		arches = []arch{x8664, i386}
	case "arm64":
		arches = []arch{aarch64, arm}
	default:
		return nil, fmt.Errorf("make seccomp filter: no profile for architecture %s", goarch)
	}
	if o.Virtual {
		arches = arches[:1]
	}
	rows, err := parseProfile(profile)
	if err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w", err)
	}
	insns, err := compile(rows, arches, o)
	if err != nil {
		return nil, fmt.Errorf("make seccomp filter: %w", err)
	}
	out := make([]byte, 0, 8*len(insns))
	for _, i := range insns {
		out = binary.NativeEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	return out, nil
}
