// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// MaxLowers is how many layers the kernel stacks in one overlay (OVL_MAX_STACK).
const MaxLowers = 500

// OverlayOptions says what an overlay is made of. Paths are the program's own, a
// relative one is resolved in the working directory.
type OverlayOptions struct {
	Lowers []string // bottom first; at least one, two without Upper
	Upper  string   // empty: the overlay is read-only
	Work   string   // empty directory on Upper's file system; needed with Upper
	Old    bool     // mount it as kernels before 6.7 need it, to try that on newer ones
}

// Overlay mounts an overlay, detached. Its marks are attributes user.overlay.*,
// the only ones that a user namespace can have.
//
// The upper directory is not synchronised when the mount goes (option
// "volatile"): who keeps it makes it durable. The kernel leaves the directory
// "work/incompat/volatile" in Work, and refuses another such mount until that is
// removed.
func Overlay(o OverlayOptions) (*os.File, error) {
	if len(o.Lowers) > MaxLowers {
		return nil, &Error{
			Op:  "overlay of " + strconv.Itoa(len(o.Lowers)) + " layers",
			Err: syscall.E2BIG,
			Log: "at most " + strconv.Itoa(MaxLowers) + " are possible: merge some of them into one",
		}
	}
	fs, err := open("overlay")
	if err != nil {
		return nil, err
	}
	defer fs.close()
	if o.Old || !appends() {
		m, err := o.mountOld()
		return m, explain(err)
	}
	for _, opt := range o.options() {
		if err := fs.set(opt); err != nil {
			return nil, explain(err)
		}
	}
	var attr Attr
	if o.Upper == "" {
		attr = ReadOnly
	}
	m, err := fs.mount(attr)
	if err != nil {
		return nil, explain(err)
	}
	return m, nil
}

func (o OverlayOptions) options() []Option {
	opts := make([]Option, 0, len(o.Lowers)+4)
	opts = append(opts, Option{"userxattr", ""})
	// The kernel wants the top one first.
	for i := len(o.Lowers) - 1; i >= 0; i-- {
		opts = append(opts, Option{"lowerdir+", o.Lowers[i]})
	}
	if o.Upper != "" {
		opts = append(opts, Option{"upperdir", o.Upper}, Option{"workdir", o.Work}, Option{"volatile", ""})
	}
	return opts
}

// explain adds what the errno alone does not tell.
func explain(err error) error {
	e, ok := err.(*Error)
	if !ok {
		return err
	}
	upper := e.Err == syscall.EINVAL && (e.Op == "fsconfig overlay create" || e.Op == "fsconfig overlay upperdir" || e.Op == mountOverlay)
	switch {
	case e.Log != "" && upper && strings.Contains(e.Log, "upper"):
		e.Log += "; use another state directory"
	case e.Log != "":
	case upper:
		e.Log = "the file system of the upper directory cannot hold one: it may be an overlay itself; use another state directory"
	case e.Err == syscall.ENODEV:
		e.Log = "the kernel has no overlay file system"
	}
	return e
}
