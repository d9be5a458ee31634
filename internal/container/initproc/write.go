// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/seccomp/install"
)

// write makes the script of a step. It does what container.run does, in the same order.
func (f *forker) write(s *Step, files []*os.File) (*script, error) {
	if err := f.forkable(s); err != nil {
		return nil, err
	}
	root, control := files[streams].Fd(), files[len(files)-1].Fd()
	p := &script{
		flags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | cloneNewCgroup | cloneParent,
	}
	p.control = control
	p.end.kind = ReportStatus
	p.end.length[0] = byte(unsafe.Sizeof(p.end) - unsafe.Offsetof(p.end.status))
	for i, file := range files[:streams] {
		p.add("take standard streams", syscall.SYS_DUP3, file.Fd(), uintptr(i), 0)
	}
	name := append([]byte(s.Hostname), 0)
	p.add("set host name", syscall.SYS_SETHOSTNAME, hold(p, &name[0]), uintptr(len(s.Hostname))).on(0, syscall.EPERM)
	p.add("mount root", sysMoveMount, root, p.str(""), atFdcwd, p.str("root"), moveFromEmpty)
	p.makeProc(f.dirs)
	p.makeDev(s)
	for _, n := range [...]string{"proc", "sys", "dev"} {
		p.open("mount /"+n, root, n, oPath|syscall.O_DIRECTORY, inRoot, regPlace).hint = " (it must be a directory in the image, not a link or a file)"
		p.moveTo("mount /"+n, atFdcwd, n)
	}
	for i, m := range s.Mounts {
		p.attach(root, files[streams+1+i].Fd(), m)
	}
	p.enter(root, s.Dir)
	p.find(s)
	p.setLastPid()
	if err := f.confine(p, s); err != nil {
		return nil, err
	}
	p.exec(s)
	return p, nil
}

// inRoot is how openIn resolves.
const inRoot = resolveInRoot | resolveNoSymlinks | resolveNoMagicLinks

// Forkable tells whether a step can be one of those of which the first process is forked.
func (s *Step) Forkable() bool {
	return s.Ordinary() && !s.Bare && !s.Virtual && !s.Supervised && !s.SingleID && len(s.Args) > 0 && s.Args[0] != ""
}

// forkable looks at what the worker promises, and at what a message can hold and a system
// call cannot.
func (f *forker) forkable(s *Step) error {
	if !s.Forkable() {
		return fail("make container", errMessage) // the worker should have started an init
	}
	for _, l := range [...][]string{s.Args, s.Env, {s.Dir}} {
		for _, v := range l {
			if index(v, 0) >= 0 {
				return fail("exec "+s.Args[0], syscall.EINVAL)
			}
		}
	}
	return nil
}

// quietFlags is quiet for mount(2).
const quietFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC

// setAttr is mount.SetAttr of a path in the place for mounts, and what is below it.
func (p *script) setAttr(what, path string, attr mount.Attr) {
	a := &[4]uint64{uint64(attr)} // struct mount_attr
	p.add(what, sysMountSetattr, atFdcwd, p.str(path), atRecursive, hold(p, a), unsafe.Sizeof(*a))
}

// makeProc does what mountProc does. dirs tells which of procMasked are directories, so that the
// first attempt is the right one: to take back a mount that cannot be attached, the kernel
// waits for all processors.
func (p *script) makeProc(dirs []bool) {
	const what = "mount /proc"
	p.mount(what, "none", "proc", "proc", quietFlags, "").on(0, syscall.EPERM).skipDone = 1
	p.mount(what, "outer", "proc", "", syscall.MS_BIND|syscall.MS_REC, "") // see there
	o := p.add(what, syscall.SYS_OPENAT, atFdcwd, p.str("proc/sys/kernel/ns_last_pid"), syscall.O_WRONLY|syscall.O_CLOEXEC)
	o.result, o.any = regLastPid, true
	for i, name := range procMasked {
		what, path := "mask /proc/"+name, "proc/"+name
		likely, other := "null", "empty"
		if dirs[i] {
			likely, other = other, likely
		}
		p.mount(what, likely, path, "", syscall.MS_BIND, "").on(0, syscall.ENOTDIR, syscall.ENOENT).skipDone = 1
		p.mount(what, other, path, "", syscall.MS_BIND, "").on(0, syscall.ENOENT)
	}
	for _, name := range procReadOnly {
		what, path := "protect /proc/"+name, "proc/"+name
		p.mount(what, path, path, "", syscall.MS_BIND|syscall.MS_REC, "").on(1, syscall.ENOENT)
		p.setAttr(what, path, quiet|mount.ReadOnly)
	}
}

// makeDev does what mountDev does.
func (p *script) makeDev(s *Step) {
	p.mount("mount /dev", "none", "dev", "tmpfs", quietFlags, "mode=755,size=65536k")
	for _, d := range Devices() {
		what, path := "mount /dev/"+d.Name, "dev/"+d.Name
		p.add(what, syscall.SYS_MKNODAT, atFdcwd, p.str(path), syscall.S_IFREG|0o666)
		p.mount(what, d.Name, path, "", syscall.MS_BIND, "")
	}
	for _, l := range devLinks {
		p.add("make /dev/"+l[1], syscall.SYS_SYMLINKAT, p.str(l[0]), atFdcwd, p.str("dev/"+l[1]))
	}
	for _, m := range [...]struct {
		name, fstype string
		flags        uintptr
		data         string
	}{
		{"pts", "devpts", quietFlags &^ syscall.MS_NODEV, "newinstance,ptmxmode=0666,mode=0620,gid=" + ttyGroup},
		{"shm", "tmpfs", quietFlags, "mode=1777,size=" + utoa(s.ShmSize)},
		{"mqueue", "mqueue", quietFlags, ""},
	} {
		p.add("mount /dev/"+m.name, syscall.SYS_MKDIRAT, atFdcwd, p.str("dev/"+m.name), 0o755)
		p.mount("mount /dev/"+m.name, "none", "dev/"+m.name, m.fstype, m.flags, m.data)
	}
}

// attach puts a mount of the worker in its place.
func (p *script) attach(root, from uintptr, m Mount) {
	what := "mount /" + m.Target
	if m.Make {
		first := p.open(what, root, m.Target, oPath, inRoot, regPlace)
		first.errs[0] = syscall.ENOENT
		at := len(p.setup)
		p.makeTarget(what, root, m)
		p.open(what, root, m.Target, oPath, inRoot, regPlace)
		p.setup[at-1].skipDone = len(p.setup) - at
	} else {
		p.open(what, root, m.Target, oPath, inRoot, regPlace)
	}
	p.moveTo(what, from, "")
}

// makeTarget does what the function of this name does.
func (p *script) makeTarget(what string, root uintptr, m Mount) {
	dir, at := ".", 0 // where the element that begins at at is made
	for i := 0; i <= len(m.Target); i++ {
		last := i == len(m.Target)
		if !last && m.Target[i] != '/' {
			continue
		}
		name := m.Target[at:i]
		p.open(what, root, dir, oPath|syscall.O_DIRECTORY, inRoot, regPlace)
		dir, at = m.Target[:i], i+1
		nr, flags, perm := uintptr(syscall.SYS_MKDIRAT), uintptr(0o755), uintptr(0)
		if m.File && last {
			nr, flags, perm = syscall.SYS_OPENAT, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o644
		}
		o := p.add(what, nr, 0, p.str(name), flags, perm).on(0, syscall.EEXIST)
		o.reg = regPlace
	}
}

// enter does what enterRoot and enterDir do.
func (p *script) enter(root uintptr, dir string) {
	here := p.str(".")
	p.add("enter root", syscall.SYS_FCHDIR, root)
	p.add("pivot_root", syscall.SYS_PIVOT_ROOT, here, here)
	p.add("unmount old root", syscall.SYS_UMOUNT2, here, syscall.MNT_DETACH)
	p.add("enter root", syscall.SYS_CHDIR, p.str("/"))
	if dir == "" {
		dir = "/"
	}
	what := "change to directory " + dir
	p.open(what, root, dir, oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoMagicLinks, regPlace)
	p.add(what, syscall.SYS_FCHDIR).reg = regPlace
	p.add(what, syscall.SYS_GETCWD, uintptr(unsafe.Pointer(&p.cwd)), unsafe.Sizeof(p.cwd))
	p.add(what, checkCwd)
}

// setLastPid does what the method of container does.
func (p *script) setLastPid() {
	o := p.add("set process id", syscall.SYS_WRITE, 0, p.str(beforeCommand), uintptr(len(beforeCommand)))
	o.reg, o.any = regLastPid, true
}

// find does what lookPath does.
func (p *script) find(s *Step) {
	p.paths = map[uintptr]string{}
	choose := func(what, path string) *op {
		at := p.str(path)
		p.paths[at] = path
		o := p.add(what, give, at)
		o.result = regCommand
		return o
	}
	name := s.Args[0]
	if index(name, '/') >= 0 {
		choose("", name)
		return
	}
	what := "exec " + name + notInPath
	all := candidates(name, s.Env)
	for i, path := range all {
		const each = 4 // calls
		o := p.add(what, syscall.SYS_OPENAT, atFdcwd, p.str(path), oPath|syscall.O_CLOEXEC)
		o.result, o.any, o.skip = regPlace, true, each-1
		o = p.add(what, syscall.SYS_FSTAT, 0, uintptr(unsafe.Pointer(&p.stat)))
		o.reg, o.any, o.skip = regPlace, true, each-2
		p.add(what, checkFile).on(each-3, syscall.EACCES)
		choose(what, path).skipDone = each*(len(all)-1-i) + 1
	}
	p.add(what, refuse, uintptr(syscall.ENOENT))
}

// confine does what the method of container does.
func (f *forker) confine(p *script, s *Step) error {
	if err := p.setLimits(s); err != nil {
		return err
	}
	p.add("join session keyring", syscall.SYS_KEYCTL, keyctlJoinSessionKeyring).on(0, syscall.ENOSYS, syscall.EDQUOT, syscall.EPERM, syscall.ENOMEM)
	p.add("set umask", syscall.SYS_UMASK, 0o022)
	if s.Scoped && f.scope != nil {
		p.add("confine to own processes (landlock)", sysLandlockRestrictSelf, f.scope.Fd(), 0)
	}
	const what = "drop capabilities"
	for i := uintptr(0); i <= f.lastCap; i++ {
		if s.Caps&(1<<i) == 0 {
			p.add(what, syscall.SYS_PRCTL, prCapbsetDrop, i)
		}
	}
	p.add(what, syscall.SYS_PRCTL, prCapAmbient, prCapAmbientClear)
	caps, err := withoutInheritable()
	if err != nil {
		return fail(what, err)
	}
	p.add(what, syscall.SYS_CAPSET, hold(p, &caps.version), hold(p, &caps.data))
	if s.NoNewPrivs {
		p.add("set no_new_privs", syscall.SYS_PRCTL, prSetNoNewPrivs, 1)
	}
	p.add("close_range", sysCloseRange, 3, 1<<32-1, closeRangeCloexec)
	if len(s.Seccomp) > 0 {
		// The last thing.
		nr, args, err := install.Call(s.Seccomp)
		if err != nil {
			return fail("install system call filter", err)
		}
		p.keep = append(p.keep, args.Program)
		p.add("install system call filter", nr, args.Operation, args.Flags, uintptr(unsafe.Pointer(args.Program)))
	}
	return nil
}

// setLimits does what the method of container does.
func (p *script) setLimits(s *Step) error {
	set := func(what string, resource int, l syscall.Rlimit) {
		p.add(what, syscall.SYS_PRLIMIT64, 0, uintptr(resource), hold(p, &l))
	}
	for _, l := range ownLimits {
		was, err := lowered(l.resource, l.soft, l.hard)
		if err != nil {
			return fail(l.what, err)
		}
		set(l.what, l.resource, was)
	}
	for _, l := range s.Limits {
		set("set resource limit "+utoa(l.Resource), int(l.Resource), syscall.Rlimit{Cur: l.Cur, Max: l.Max})
	}
	return nil
}

// exec makes the list of the second process, which becomes the command: the last call of it is
// execve(2).
func (p *script) exec(s *Step) {
	setup := p.setup
	p.setup = nil
	what := "exec " + s.Args[0]
	p.add(what, syscall.SYS_SETSID)
	groups := append([]uint32{}, s.Groups...)
	p.keep = append(p.keep, groups)
	p.add(what, syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))))
	p.add(what, syscall.SYS_SETGID, uintptr(s.GID))
	p.add(what, syscall.SYS_SETUID, uintptr(s.UID))
	p.add(what, syscall.SYS_EXECVE, 0, p.strs(s.Args), p.strs(s.Env)).reg = regCommand
	p.setup, p.command = setup, p.setup
}
