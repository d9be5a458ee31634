// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"fmt"
	"slices"
)

// The program of one architecture, after the test for it:
//
//	load number
//	a tree of "number ≥ k?" over the ranges of equal verdict
//	one return per final verdict, one jump per verdict that needs arguments
//	the argument checks, each with its own returns
//
// A conditional jump reaches 255 instructions ahead. The tree of an architecture has about a
// hundred nodes; it is split in two when it would not fit.

// insn is struct sock_filter.
type insn struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Codes of linux/bpf_common.h.
const (
	ldAbs = 0x20 // BPF_LD|BPF_W|BPF_ABS
	ja    = 0x05 // BPF_JMP|BPF_JA
	jeq   = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	jge   = 0x35 // BPF_JMP|BPF_JGE|BPF_K
	jset  = 0x45 // BPF_JMP|BPF_JSET|BPF_K
	and   = 0x54 // BPF_ALU|BPF_AND|BPF_K
	ret   = 0x06 // BPF_RET|BPF_K
)

// Return values of linux/seccomp.h; an errno is in the low half.
const (
	retKill   = 0x80000000
	retErrno  = 0x00050000
	retNotify = 0x7fc00000
	retTrace  = 0x7ff00000
	retAllow  = 0x7fff0000
	retEPERM  = retErrno | 1
	retNoType = retErrno | 94 // ESOCKTNOSUPPORT
	retNoUnix = retErrno | 97 // EAFNOSUPPORT
	retENOSYS = retErrno | 38
)

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// maxTree is the number of ranges that one tree may tell apart, so that its first node still
// reaches the last return behind it.
const maxTree = 240

// arg returns the load of the low 32 bits of argument n. All our architectures are little
// endian, and every argument that is compared is a 32-bit one to the kernel, which ignores
// the other half: comparing it too would let a set high bit pass for another value.
func arg(n uint32) insn { return insn{code: ldAbs, k: offArgs + 8*n} }

// span is a range of numbers, from first to the next span's first, with one verdict.
type span struct {
	first uint32
	v     verdict
}

func compile(rows []row, arches []arch, o Options) ([]insn, error) {
	prog := []insn{{code: ldAbs, k: offArch}}
	for _, a := range arches {
		spans, err := spansOf(rows, a, o)
		if err != nil {
			return nil, err
		}
		body := append([]insn{{code: ldAbs, k: offNr}}, tree(spans, o)...)
		prog = append(prog, insn{code: jeq, k: a.audit(), jt: 1}, insn{code: ja, k: uint32(len(body))})
		prog = append(prog, body...)
	}
	// A call of an architecture that this kernel was not thought to run.
	return append(prog, insn{code: ret, k: retKill}), nil
}

// spansOf returns the ranges of a, the first at 0. A number that no row has, and with them the
// x32 numbers (bit 30) and the -1 by which a tracer skips a call, is ENOSYS.
func spansOf(rows []row, a arch, o Options) ([]span, error) {
	verdicts := map[uint32]verdict{}
	for _, r := range rows {
		v, err := verdictOf(r.rule, o)
		if err != nil {
			return nil, fmt.Errorf("rule of %s: %w", r.name, err)
		}
		if r.nr[a] < 0 {
			continue
		}
		if o.Supervise && (a == x8664 || a == aarch64) {
			v = supervised(r.name, v)
		}
		if o.Virtual {
			v = virtual(r.name, v)
		}
		if o.OwnLimits && r.name == "prlimit64" {
			v = checkOwnLimits
		}
		if o.AskRoot && r.name == "chroot" && (a == x8664 || a == aarch64) {
			v = notify
		}
		nr := uint32(r.nr[a])
		if _, twice := verdicts[nr]; twice {
			return nil, fmt.Errorf("number %d of %s is taken", nr, r.name)
		}
		verdicts[nr] = v
	}
	numbers := make([]uint32, 0, len(verdicts))
	for nr := range verdicts {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	var spans []span
	add := func(first uint32, v verdict) {
		if len(spans) == 0 || spans[len(spans)-1].v != v {
			spans = append(spans, span{first, v})
		}
	}
	next := uint32(0)
	for _, nr := range numbers {
		if nr > next {
			add(next, enosys)
		}
		add(nr, verdicts[nr])
		next = nr + 1
	}
	add(next, enosys)
	return spans, nil
}

// tree returns the code that gives each range its verdict, and falls out at no end.
func tree(spans []span, o Options) []insn {
	if len(spans) > maxTree {
		half := len(spans) / 2
		low, high := tree(spans[:half], o), tree(spans[half:], o)
		out := []insn{{code: jge, k: spans[half].first, jf: 1}, {code: ja, k: uint32(len(low))}}
		return append(append(out, low...), high...)
	}
	leaves, at := ends(spans, o)
	nodes := make([]insn, 0, len(spans))
	total := len(spans) - 1
	// place writes the subtree over s and returns the position of its first instruction:
	// for a single range that is its verdict, behind all nodes.
	var place func(s []span) int
	place = func(s []span) int {
		if len(s) == 1 {
			return total + at[s[0].v]
		}
		pos, half := len(nodes), len(s)/2
		nodes = append(nodes, insn{code: jge, k: s[half].first})
		low := place(s[:half])
		high := place(s[half:])
		nodes[pos].jf, nodes[pos].jt = uint8(low-pos-1), uint8(high-pos-1)
		return pos
	}
	place(spans)
	return append(nodes, leaves...)
}

// ends returns the code behind a tree, and where in it the code for each verdict starts.
func ends(spans []span, o Options) (code []insn, at [verdictCount]int) {
	var used [verdictCount]bool
	for _, s := range spans {
		used[s.v] = true
	}
	var jumps []verdict
	for v := range verdictCount {
		if !used[v] {
			continue
		}
		at[v] = len(code)
		switch v {
		case allow:
			code = append(code, insn{code: ret, k: retAllow})
		case eperm:
			code = append(code, insn{code: ret, k: retEPERM})
		case enosys:
			code = append(code, insn{code: ret, k: retENOSYS})
		case notify:
			code = append(code, insn{code: ret, k: retNotify})
		case trace:
			code = append(code, insn{code: ret, k: retTrace})
		default:
			jumps = append(jumps, v)
			code = append(code, insn{code: ja})
		}
	}
	for _, v := range jumps {
		code[at[v]].k = uint32(len(code) - at[v] - 1)
		code = append(code, argumentCheck(v, o)...)
	}
	return code, at
}
