// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	_ "embed" // profile.txt
	"fmt"
	"slices"
	"strconv"
	"strings"
)

//go:embed profile.txt
var profile string

// arch is an architecture whose calls a filter can meet: its column in profile.txt.
type arch int

const (
	x8664 arch = iota
	i386
	aarch64
	arm
	archCount
)

// audit returns the AUDIT_ARCH value by which the kernel names a to a filter.
func (a arch) audit() uint32 {
	switch a {
	case x8664:
		return 0xc000003e
	case i386:
		return 0x40000003
	case aarch64:
		return 0xc00000b7
	default:
		return 0x40000028
	}
}

// row is one line of the profile. A number is -1 where the architecture lacks the call.
type row struct {
	name string
	nr   [archCount]int64
	rule string
}

// parseProfile reads the table of profile.txt, whose head describes its form.
func parseProfile(text string) ([]row, error) {
	var rows []row
	line := 0
	for l := range strings.Lines(text) {
		line++
		if strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.Fields(l)
		if len(f) != 2+int(archCount) {
			return nil, fmt.Errorf("line %d: %d fields, want %d", line, len(f), 2+archCount)
		}
		r := row{name: f[0], rule: f[len(f)-1]}
		for a := range archCount {
			r.nr[a] = -1
			if f[1+a] == "-" {
				continue
			}
			n, err := strconv.ParseUint(f[1+a], 10, 24)
			if err != nil {
				return nil, fmt.Errorf("line %d: number of %s: %w", line, r.name, err)
			}
			r.nr[a] = int64(n)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// verdict is what happens to a call: a final action, or a look at its arguments.
type verdict int

const (
	allow verdict = iota
	eperm
	enosys
	checkClone
	checkSocket
	checkPersonality
	checkIoctl
	notify
	notifyOpen
	notifyOpenat
	notifyPrctl
	notifyLimit
	notifyPrlimit
	trace
	notifyPrctlAll
	checkCloneTraced
	checkSocketVirtual
	checkSocketpair
	checkOwnLimits
	checkOwner
	verdictCount
)

// verdictOf applies the options to the rule of one row.
func verdictOf(rule string, o Options) (verdict, error) {
	nest := o.AllowUserns || o.Caps&(1<<capSysAdmin) != 0
	pick := func(ok bool, other verdict) (verdict, error) {
		if ok {
			return allow, nil
		}
		return other, nil
	}
	switch rule {
	case "allow":
		return allow, nil
	case "deny":
		return eperm, nil
	case "enosys":
		return enosys, nil
	case "nest":
		return pick(nest, eperm)
	case "clone":
		return pick(nest, checkClone)
	case "clone3":
		return pick(nest, enosys)
	case "socketcall":
		return pick(o.Socketcall, enosys)
	case "socket":
		return checkSocket, nil
	case "personality":
		return checkPersonality, nil
	case "ioctl":
		return checkIoctl, nil
	}
	granted := false
	for name := range strings.SplitSeq(rule, ",") {
		n := slices.Index(capNames(), name)
		if n < 0 {
			return 0, fmt.Errorf("unknown rule %q", rule)
		}
		granted = granted || o.Caps&(1<<n) != 0
	}
	return pick(granted, eperm)
}

const (
	capNetRaw   = 13
	capSysAdmin = 21
)

// capNames returns the names of the capabilities in the order of linux/capability.h.
func capNames() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID",
		"SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST",
		"NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO",
		"SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE",
		"AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM",
		"BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
	}
}
