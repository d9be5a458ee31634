// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// suExec is su-exec USER[:GROUP] COMMAND [ARGUMENT...]: it runs a command as a user, as a
// container's runtime does for the User of an image: the group is that of the user, or 0
// for a number without an entry; without a group in USER the supplementary groups are those
// of /etc/group; HOME is set where the environment has none.
func suExec(ctx context.Context, p *proc, args []string) int {
	if len(args) < 2 {
		return p.fail(1, "usage: su-exec USER[:GROUP] COMMAND [ARGUMENT...]")
	}
	user, group, _ := strings.Cut(args[0], ":")
	uid, gid, err := lookupID("/etc/passwd", user)
	if err != nil {
		return p.fail(1, "invalid user: '%s'", user)
	}
	name, home := userEntry(uid)
	as := &syscall.Credential{Uid: uint32(uid), Gid: uint32(max(gid, 0))}
	if group != "" {
		if gid, _, err = lookupID("/etc/group", group); err != nil {
			return p.fail(1, "invalid group: '%s'", group)
		}
		as.Gid = uint32(gid)
	} else if name != "" {
		as.Groups = groupsOf(name)
	}
	child := *p
	child.as = as
	if _, ok := p.getenv("HOME"); !ok {
		child.environ = append(slices.Clone(p.environ), "HOME="+home)
	}
	return child.run(ctx, args[1:])
}

// userEntry is the name and the home of a user in /etc/passwd; "" and "/" without an entry.
func userEntry(uid int) (name, home string) {
	data, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 6 && f[2] == strconv.Itoa(uid) {
			return f[0], f[5]
		}
	}
	return "", "/"
}

// groupsOf are the groups of /etc/group that have user as a member.
func groupsOf(user string) []uint32 {
	var groups []uint32
	data, _ := os.ReadFile("/etc/group")
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}
