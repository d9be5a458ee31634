// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// chrootCaps are those that root needs to run steps without a user namespace: to give files
// any owner, mode and capability, to become any user, to make /dev/null, to enter a root file
// system, and to end what a step started. Containers of docker and of Kubernetes have them.
var chrootCaps = [...]capability{
	{unix.CAP_CHOWN, "CAP_CHOWN"}, {unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"}, {unix.CAP_FOWNER, "CAP_FOWNER"},
	{unix.CAP_FSETID, "CAP_FSETID"}, {unix.CAP_KILL, "CAP_KILL"}, {unix.CAP_MKNOD, "CAP_MKNOD"}, {unix.CAP_SETFCAP, "CAP_SETFCAP"},
	{unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_SETPCAP, "CAP_SETPCAP"}, {unix.CAP_SETUID, "CAP_SETUID"}, {unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
}

// withoutNamespace is the plan where why keeps from a user namespace.
func (h Host) withoutNamespace(why obstacle) (Plan, error) {
	if h.UID == 0 {
		p, err := h.planBare(LevelChroot)
		if err != nil {
			p, err = h.planBare(LevelVroot)
		}
		if err != nil {
			return Plan{}, &why
		}
		p.reason(LevelRoot, why.what, why.remedy)
		return p, nil
	}
	p, err := h.planBare(LevelVroot)
	if err != nil {
		return Plan{}, &why
	}
	p.reason(LevelRoot, "the user is not root", "none is needed: the next levels do the same")
	p.reason(LevelSubID, why.what, "as for "+string(LevelSingle))
	p.reason(LevelSingle, why.what, why.remedy)
	return p, nil
}

// withoutOwnID is the plan for root who may make a user namespace but not map its own id into it.
// reasons are those that were found for better levels.
func (h Host) withoutOwnID(reasons []Reason) (Plan, error) {
	const what, remedy = "root without CAP_SETFCAP cannot map its own id", "run the container as another user (runAsUser: 1000), or give it " + wantedCaps
	p, err := h.planBare(LevelVroot)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: %s; %s", ErrUnavailable, what, remedy)
	}
	p.Reasons = reasons
	p.reason(LevelSingle, what, remedy)
	return p, nil
}

// planBare is the plan for a bare level, which can be had where better ones can be, too.
func (h Host) planBare(l Level) (Plan, error) {
	p := Plan{Level: l}
	if l == LevelVroot {
		if h.UID == 0 && missing(h.read("proc/self/status"), chrootCaps[:]) == "" {
			// With the rights of root a step should have them where the kernel looks, too.
			return p, fmt.Errorf("%w: level %s cannot be had: the user is root, with all that root needs; none is needed: level %s is for root",
				ErrUnavailable, l, LevelChroot)
		}
		if s := h.sysctl("kernel/yama/ptrace_scope"); s == "2" || s == "3" {
			return p, fmt.Errorf("%w: level %s cannot be had: kernel.yama.ptrace_scope is %s, so that no step can be traced; "+
				"as root: sysctl -w kernel.yama.ptrace_scope=1", ErrUnavailable, l, s)
		}
		h.planSingle(&p)
		p.Level = l
		return p, nil
	}
	if h.UID != 0 {
		return p, fmt.Errorf("%w: level %s cannot be had: the user is not root; none is needed: level %s is for other users",
			ErrUnavailable, l, LevelVroot)
	}
	if name := missing(h.read("proc/self/status"), chrootCaps[:]); name != "" {
		return p, fmt.Errorf("%w: level %s cannot be had: root has no %s here; give the container the capabilities that docker gives",
			ErrUnavailable, l, name)
	}
	p.UIDs, p.GIDs = identity(h.current("proc/self/uid_map")), identity(h.current("proc/self/gid_map"))
	return p, nil
}

// identity gives the ids that exist in a map, as themselves.
func identity(current []IDMap) []IDMap {
	out := make([]IDMap, len(current))
	for i, m := range current {
		out[i] = IDMap{m.Inside, m.Inside, m.Count}
	}
	return out
}

// LevelNames gives the names of all levels for a message.
func LevelNames() string {
	all := Levels()
	names := make([]string, len(all))
	for i, l := range all {
		names[i] = string(l)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
