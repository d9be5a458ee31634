// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// planSubID uses the user's subordinate ids, which only newuidmap and newgidmap
// may map.
func (h Host) planSubID(p *Plan, status []byte, uids, gids []IDMap) bool {
	user := h.User
	if user == "" {
		user = userName(string(h.read("etc/passwd")), h.UID)
	}
	before := len(p.Reasons)
	var subs [2][]IDMap
	var helpers [2]string
	for i, file := range []string{"subuid", "subgid"} {
		all := parseSub(string(h.read("etc/"+file)), user, strconv.Itoa(h.UID))
		here := [2][]IDMap{uids, gids}[i]
		for _, m := range all {
			if exist(here, m.Outside, m.Count) {
				subs[i] = append(subs[i], m)
			}
		}
		switch {
		case len(subs[i]) > 0:
		case len(all) > 0:
			p.reason(LevelSubID, "/etc/"+file+" names ids that the container around this process does not have",
				"in the container's image, give the user ids that it has: see /proc/self/uid_map")
		default:
			p.reason(LevelSubID, "/etc/"+file+" has no ids for this user",
				"as root: usermod --add-"+file+"s 100000-165535 "+orUID(user, h.UID)+" (another range if other users have this one)")
		}
	}
	for i, helper := range []string{"newuidmap", "newgidmap"} {
		file, ok := h.find(helper)
		helpers[i] = file
		switch {
		case file == "":
			p.reason(LevelSubID, helper+" is not installed", "as root: install package uidmap (Debian, Ubuntu), shadow-utils (Fedora) or shadow-uidmap (Alpine)")
		case !ok:
			p.reason(LevelSubID, file+" is neither setuid nor has file capabilities", "as root: chmod u+s "+file)
		}
	}
	if statusField(status, "NoNewPrivs") == "1" {
		p.reason(LevelSubID, "this process may not gain privileges (no_new_privs), so that newuidmap does not work",
			"run the container with allowPrivilegeEscalation: true, or without --security-opt no-new-privileges")
	}
	if len(p.Reasons) != before {
		return false
	}
	p.Level, p.Helpers = LevelSubID, helpers
	p.UIDs = stack(uint32(h.UID), subs[0])
	p.GIDs = stack(uint32(h.GID), subs[1])
	return true
}

// stack maps 0 to the user's own id and what follows to subordinate ids.
func stack(own uint32, subs []IDMap) []IDMap {
	out := []IDMap{{0, own, 1}}
	next := uint32(1)
	for _, s := range subs {
		n := min(s.Count, wantIDs-next)
		if n == 0 {
			break
		}
		out = append(out, IDMap{next, s.Outside, n})
		next += n
	}
	return out
}

// parseSub gives the ranges of a user, known by name or number, in /etc/subuid or
// /etc/subgid (subuid(5)). Lines that make no sense are left out, as newuidmap
// does.
func parseSub(text, name, id string) []IDMap {
	var out []IDMap
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] == "" || f[0] != name && f[0] != id {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		n, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || n == 0 || start+n > math.MaxUint32 {
			continue
		}
		out = append(out, IDMap{0, uint32(start), uint32(n)})
	}
	return out
}

// userName finds a name in /etc/passwd; empty: there is none.
func userName(passwd string, uid int) string {
	for line := range strings.Lines(passwd) {
		f := strings.SplitN(line, ":", 4)
		if len(f) == 4 && f[2] == strconv.Itoa(uid) {
			return f[0]
		}
	}
	return ""
}

func orUID(user string, uid int) string {
	if user != "" {
		return user
	}
	return strconv.Itoa(uid)
}

// find gives the path of a helper, and whether it can do its work; one that can
// is preferred.
func (h Host) find(name string) (file string, ok bool) {
	for _, dir := range h.Path {
		if !path.IsAbs(dir) {
			continue
		}
		p := path.Join(dir, name)
		st, err := fs.Stat(h.Files, p[1:])
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		if st.Mode()&fs.ModeSetuid != 0 || h.FileCaps != nil && h.FileCaps(p) {
			return p, true
		}
		if file == "" {
			file = p
		}
	}
	return file, false
}
