// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package userns finds out which user namespace this user can have and starts
// the worker process in it. Where there can be none, it says which of the levels
// without one is left, and the worker is a process like any other.
//
// Detect looks at the machine and gives a Plan: the level, the ids, and for each
// better level what is missing for it. Start makes the namespace and this
// program's worker process in it; package boot is that process's beginning.
//
// Invariants: the id 0 of the machine is never mapped by root; the worker ends
// with the process that started it, and everything that it runs ends with it: in a
// pid namespace by the kernel's doing, at the bare levels by that of the worker.
package userns

// Level says what keeps steps apart from the rest, and where they have their ids from.
type Level string

// The levels, best first.
const (
	LevelRoot   Level = "root"   // a range of ids that root takes for itself
	LevelSubID  Level = "subid"  // the user's own id and subordinate ids
	LevelSingle Level = "single" // the user's own id only
	LevelChroot Level = "chroot" // no namespace: root of a container, with chroot(2)
	LevelVroot  Level = "vroot"  // no namespace, no rights: all paths and ids are played
)

// Levels gives all levels, best first.
func Levels() []Level {
	return []Level{LevelRoot, LevelSubID, LevelSingle, LevelChroot, LevelVroot}
}

// Bare tells whether there are no namespaces at this level, and so no mounts.
func (l Level) Bare() bool { return l == LevelChroot || l == LevelVroot }

// SingleID tells whether all files really belong to one user at this level.
func (l Level) SingleID() bool { return l == LevelSingle || l == LevelVroot }

// IDMap is a line of a uid_map or gid_map.
type IDMap struct{ Inside, Outside, Count uint32 }

// Reason tells why a level was not taken, or is not all that it could be.
type Reason struct {
	Level  Level
	What   string // what is missing
	Remedy string // what to do about it
}

// Plan is a user namespace to be made, or, at a bare level, to do without.
type Plan struct {
	Level         Level
	UIDs, GIDs    []IDMap   // at a bare level, which ids there are
	SetgroupsDeny bool      // the kernel wants it so (user_namespaces(7))
	Helpers       [2]string // paths of newuidmap and newgidmap; with LevelSubID
	// ByPath says that the worker finds its directory by its path, with no more rights
	// on the directories above than the group of RootIDs has: root without
	// CAP_SYS_ADMIN cannot hand it over as a mount.
	ByPath bool
	// OuterProc says that parts of /proc are covered here, as in most containers, so that
	// steps see this /proc and not one of their own.
	OuterProc bool
	Reasons   []Reason
}

// RootIDs gives the ids, outside, of the namespace's root: the owner of what the
// worker writes. The directory that the worker is given must be theirs.
func (p Plan) RootIDs() (uid, gid int) { return outside(p.UIDs), outside(p.GIDs) }

func outside(maps []IDMap) int {
	for _, m := range maps {
		if m.Inside == 0 && m.Count > 0 {
			return int(m.Outside)
		}
	}
	return -1
}
