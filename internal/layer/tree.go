// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

const (
	maxOpenDirs   = 128  // directories that a tree holds open
	maxKnownNames = 8192 // names of directories whose place is remembered
)

// A tree is the directory that Apply fills. It finds the directory for a name and
// makes the ones that the archive does not mention.
//
// Two kinds of path occur: names, as the archive has them, which may lead through
// links, and places, in which every element is a real directory of this tree.
type tree struct {
	root  *rootfs.Root
	lower *Stack // nil if there is nothing below

	known map[string]string        // name of a directory → its place
	open  map[string]*list.Element // place → *openDir, open
	used  *list.List               // of *openDir, the last used first

	meta        map[string]dirMeta // what each directory shall be in the end
	opaque      map[string]bool    // places that hide what is below
	aclBytes    int                // kept in meta
	usedLower   bool
	openLower   func() ([]string, error) // nil: opened, or there is nothing
	droppedAttr int
}

type openDir struct {
	place string
	dir   *rootfs.Dir
}

// dirMeta is what a directory gets when all is unpacked: until then it is 0700,
// so that it can be filled, and its times would change anyway. Access control
// lists wait too, because new files would inherit from them.
type dirMeta struct {
	mode     uint32
	uid, gid uint32
	mtime    unix.Timespec
	acls     map[string]string
}

// maxACLBytes bounds what dirMeta keeps in memory for all directories together.
const maxACLBytes = 16 << 20

func newTree(dir string, lower func() ([]string, error)) (*tree, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{
		root:   root,
		known:  map[string]string{},
		open:   map[string]*list.Element{},
		used:   list.New(),
		meta:   map[string]dirMeta{},
		opaque: map[string]bool{},
	}
	t.openLower = lower
	return t, nil
}

// needLower opens the layers below at the first need; there may be none.
func (t *tree) needLower() error {
	if t.openLower == nil {
		return nil
	}
	dirs, err := t.openLower()
	if err != nil {
		return err
	}
	t.openLower = nil
	if len(dirs) == 0 {
		return nil
	}
	t.lower, err = OpenStack(dirs)
	return err
}

func (t *tree) close() {
	for e := t.used.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*openDir).dir.Close() // not written to
	}
	if t.lower != nil {
		t.lower.Close()
	}
	_ = t.root.Close() // not written to
}

// dir returns the directory at place, open. It stays so until some more
// directories were asked for: who needs two asks for both and then uses them.
func (t *tree) dir(place string) (*rootfs.Dir, error) {
	if e, ok := t.open[place]; ok {
		t.used.MoveToFront(e)
		return e.Value.(*openDir).dir, nil
	}
	parent, leaf := splitName(place)
	var d *rootfs.Dir
	var err error
	if e, ok := t.open[parent]; ok && place != "." {
		d, err = e.Value.(*openDir).dir.Walk(leaf)
	} else {
		d, err = t.root.Walk(place)
	}
	if err != nil {
		return nil, err
	}
	t.remember(place, d)
	return d, nil
}

func (t *tree) remember(place string, d *rootfs.Dir) {
	t.open[place] = t.used.PushFront(&openDir{place: place, dir: d})
	for t.used.Len() > maxOpenDirs {
		t.drop(t.used.Back())
	}
}

func (t *tree) drop(e *list.Element) {
	o := t.used.Remove(e).(*openDir)
	delete(t.open, o.place)
	_ = o.dir.Close() // not written to
}

// forget drops what is remembered about the directory or link at place, which is
// about to be removed.
func (t *tree) forget(place string) {
	clear(t.known)
	below := place + "/"
	for e := t.used.Front(); e != nil; {
		next := e.Next()
		if p := e.Value.(*openDir).place; p == place || strings.HasPrefix(p, below) {
			t.drop(e)
		}
		e = next
	}
	delete(t.opaque, place)
}

// place returns the place of the directory called name. What is missing on the
// way is made: as the layers below have it, or 0755 and owned by 0:0.
func (t *tree) place(name string) (string, error) {
	if name == "." {
		return ".", nil
	}
	if p, ok := t.known[name]; ok {
		return p, nil
	}
	parent, leaf := splitName(name)
	p, err := t.place(parent)
	if err != nil {
		return "", err
	}
	links := 0
	if p, err = t.step(p, leaf, &links); err != nil {
		return "", err
	}
	if len(t.known) >= maxKnownNames {
		clear(t.known)
	}
	t.known[name] = p
	return p, nil
}

// step goes from the directory at place down to elem, through links if need be.
func (t *tree) step(place, elem string, links *int) (string, error) {
	next := joinName(place, elem)
	if _, ok := t.open[next]; ok {
		return next, nil
	}
	d, err := t.dir(place)
	if err != nil {
		return "", err
	}
	child, err := d.Walk(elem)
	switch {
	case err == nil:
		t.remember(next, child)
		return next, nil
	case errors.Is(err, fs.ErrNotExist):
		return t.implicit(place, elem, links)
	case !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP):
		return "", err
	}
	st, err := d.Lstat(elem)
	if err != nil {
		return "", err
	}
	gone, err := whiteoutAt(d, elem, &st)
	switch {
	case err != nil:
		return "", err
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		target, err := d.Readlink(elem)
		if err != nil {
			return "", err
		}
		return t.follow(place, target, links)
	case gone:
		if err := d.Remove(elem); err != nil {
			return "", err
		}
		if err := t.makeDir(next, defaultDir); err != nil {
			return "", err
		}
		return next, t.setOpaque(next)
	}
	return "", fmt.Errorf("parent %q is not a directory", next)
}

// follow goes from the directory at place to where a link in it leads.
func (t *tree) follow(place, target string, links *int) (string, error) {
	if *links++; *links > maxLinks {
		return "", unix.ELOOP
	}
	if strings.HasPrefix(target, "/") {
		place = "."
	}
	for elem := range strings.SplitSeq(target, "/") {
		var err error
		switch elem {
		case "", ".":
		case "..":
			place, _ = splitName(place)
		default:
			place, err = t.step(place, elem, links)
		}
		if err != nil {
			return "", err
		}
	}
	return place, nil
}

// defaultDir is a directory that nobody describes.
var defaultDir = dirMeta{mode: 0o755}

// implicit makes the directory elem, which the archive has not mentioned so far,
// or follows the link that the layers below have there.
func (t *tree) implicit(place, elem string, links *int) (string, error) {
	next := joinName(place, elem)
	f, ok, err := t.below(next)
	if err != nil {
		return "", err
	}
	if !ok {
		return next, t.makeDir(next, defaultDir)
	}
	switch f.Stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := t.lower.Root(f.Layer).Readlink(f.Path)
		if err != nil {
			return "", err
		}
		t.usedLower = true
		return t.follow(place, target, links)
	case unix.S_IFDIR:
		t.usedLower = true
		if err := t.makeDir(next, defaultDir); err != nil {
			return "", err
		}
		return next, t.copyDirMeta(f, next)
	}
	return next, t.makeDir(next, defaultDir)
}

// below finds the place p in the layers below, unless this tree hides it.
func (t *tree) below(p string) (Found, bool, error) {
	if err := t.needLower(); err != nil {
		return Found{}, false, err
	}
	if t.lower == nil {
		return Found{}, false, nil
	}
	if t.hidden(p) {
		return Found{}, false, nil
	}
	f, err := t.lower.lookup(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return Found{}, false, nil
	}
	return f, err == nil, err
}

// hidden tells whether a directory around the place p hides what is below.
func (t *tree) hidden(p string) bool {
	if len(t.opaque) == 0 {
		return false
	}
	for dir := p; dir != "."; {
		if dir, _ = splitName(dir); t.opaque[dir] {
			return true
		}
	}
	return false
}

// makeDir makes the directory at place, where nothing is, to become what m says.
func (t *tree) makeDir(place string, m dirMeta) error {
	dir, leaf := splitName(place)
	d, err := t.dir(dir)
	if err != nil {
		return err
	}
	if err := d.Mkdir(leaf, 0o700); err != nil {
		return err
	}
	t.meta[place] = m
	return nil
}

// setOpaque makes the directory at place hide what is below.
func (t *tree) setOpaque(place string) error {
	t.opaque[place] = true
	return t.root.Lsetxattr(place, xattrOpaque, []byte("y"))
}
