// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package supervisor answers system calls that need more than one user id, in
// containers that have only one.
//
// The filter of a step (package seccomp, Options.Supervise) hands these calls over
// instead of letting the kernel do them (seccomp_unotify(2)). A thread of the
// container's first process, which the filter does not apply to, waits for them
// and does one of three things:
//
//   - lets the kernel go on, which is right for nearly all: the file has no note
//     of an owner, the ids are all 0;
//   - does the call itself, with what it can, and notes what was meant: owners of
//     files as package record says, the ids of processes as below;
//   - answers out of the notes: stat(2) of a file with a note, getuid(2).
//
// The ids of a process are a number in a table of this package. Which one is kept
// where the kernel itself hands it on by fork and exec, and where this process can
// write it: in the soft value of RLIMIT_LOCKS, which the kernel has not used since
// Linux 2.4.25 (getrlimit(2)). So there is nothing to track, and nothing to forget
// when processes end. Threads share it, as POSIX wants.
//
// None of this is a border that protects somebody. All processes of a step have
// the same real id and the same rights, which are those of the confinement around
// them. A program can change paths while they are looked at, or its number: what
// it can reach by that is what it could reach anyway, the files of its own root.
// Paths are resolved by this thread inside that root, without magic links, and
// notes are made on the root's own mount only: binds and other mounts never get
// one.
//
// What differs from a kernel with many ids:
//
//   - a process that is not root is refused nothing but changes of owner and of
//     ids, new names in directories that it may not write, and chroot;
//   - /proc shows the real ids, and so do sockets (SO_PEERCRED);
//   - programs for another architecture (32 bits) are not supervised;
//   - a default access control list that names other ids is noted, but not
//     inherited.
//
// The thread masks all signals: one that comes between the kernel's steps of a
// call would leave the other process with a wrong answer. It allocates nothing in
// proportion to the number of calls. When the process that it is part of ends, the
// kernel kills the step.
//
// The package runs where nearly nothing is initialised (package boot), so it
// imports next to nothing.
package supervisor

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"
)

// IDs are those that the first process of the step has.
type IDs struct {
	UID, GID uint32
	Groups   []uint32
	Caps     uint64 // capabilities of root
}

// Prepare makes the thread that will answer. It is called by the first process of
// a container, inside its root, on the thread that will be confined and start the
// command, before it is confined. serve is called by that thread afterwards with
// the filter's listener. It returns at once, and calls end when no more calls can
// be answered.
func Prepare(ids IDs, end func(error)) (serve func(listener int), err error) {
	s := &supervisor{table: []creds{newCreds(ids)}, caps: ids.Caps}
	if e := s.numbers.look(); e != 0 {
		return nil, errors.New("look at /proc: " + e.Error())
	}
	if err := s.markSelf(); err != nil {
		return nil, err
	}
	// Two processors of Go's: while the other thread forks it keeps the one that
	// it has.
	runtime.GOMAXPROCS(2)
	spareThreads(2)
	ready := make(chan error)
	// The listener comes by a pipe that the scheduler knows nothing of: for a goroutine that wakes it
	// may make a thread, which would have the process id that is the command's (see initproc).
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return nil, errors.New("make pipe: " + err.Error())
	}
	var listener, told uint32
	go func() {
		runtime.LockOSThread()
		err := s.enter()
		ready <- err
		if err != nil {
			return
		}
		_, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(p[0]), uintptr(unsafe.Pointer(&listener)), unsafe.Sizeof(listener))
		if e != 0 {
			end(errors.New("get listener: " + e.Error()))
			return
		}
		end(s.loop(int(listener)))
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	// A thread started by this one from now on would be confined: a locked thread
	// has another one start them (runtime.LockOSThread).
	runtime.LockOSThread()
	return func(fd int) {
		told = uint32(fd)
		_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(p[1]), uintptr(unsafe.Pointer(&told)), unsafe.Sizeof(told)) // a new pipe has room
	}, nil
}

// spareThreads has Go's scheduler make threads that it can use later, so that it makes none while the
// command is started.
func spareThreads(n int) {
	made, done := make(chan struct{}), make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread() // a thread for each
			defer runtime.UnlockOSThread()
			made <- struct{}{}
			<-done
		}()
	}
	for range n {
		<-made
	}
	close(done)
}

// supervisor is the state of the thread. The buffers are here because they must
// neither be allocated for each call nor lie on a stack that grows.
type supervisor struct {
	listener uintptr
	table    []creds
	caps     uint64 // of root
	groups   int    // ids in all groups of table
	limit    rlimit // RLIMIT_LOCKS of the process being looked at

	numbers numbers
	root    int    // the step's root directory
	mount   uint64 // its mount
	chroots bool   // a process has changed its root

	poll       pollFd
	wait       syscall.Timespec
	call       notification
	pathLen    int
	path       [pathMax + 1]byte         // argument of the call, with its NUL
	target     [pathMax + 1]byte         // second one
	name       [pathMax + prefixMax]byte // a path for this thread
	leaf       [nameMax + 1]byte         // last element of path
	handleName [prefixMax]byte           // the same, of an open file
	owner      [2]uint32                 // that show found
	names      [512]byte                 // of attributes; the kernel allocates as much for a call
	value      [256]byte                 // of an attribute
	list       [64 << 10]byte            // names of attributes, or a list of groups
	status     [256]byte                 // beginning of /proc/PID/status
	stat       syscall.Stat_t
	statx      statxBuf
}

const (
	pathMax   = 4096
	prefixMax = 64
	nameMax   = 255
)

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

const (
	notifRecv     = 0xc0502100
	notifSend     = 0xc0182101
	notifIDValid  = 0x40082102
	notifAddFD    = 0x40182103
	notifSetFlags = 0x40082104

	flagContinue  = 1
	flagSync      = 1 // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
	addFDFlagSend = 2
)

// pollFd is struct pollfd.
type pollFd struct {
	fd            int32
	events, ready int16
}

const (
	pollIn = 1

	// busyWait is how many nanoseconds after a call the next one is thought to be near.
	busyWait = 50e6
)

// answer is what becomes of a call.
type answer struct {
	value int64
	errno syscall.Errno
	how   how
}

type how int

const (
	reply how = iota // with value or errno
	pass             // the kernel does the call
	sent             // the answer is given already
)

func passed() answer               { return answer{how: pass} }
func done(value int64) answer      { return answer{value: value} }
func fails(e syscall.Errno) answer { return answer{errno: e} }

// result is the answer to a call that was done for the process.
func result(e syscall.Errno) answer { return answer{errno: e} }

// enter prepares the thread: it has a umask of its own, and no signal reaches it.
func (s *supervisor) enter() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_UNSHARE, syscall.CLONE_FS, 0, 0); e != 0 {
		return errors.New("separate umask: " + e.Error())
	}
	syscall.Umask(0)
	all := ^uint64(0)
	const setMask, setSize = 2, 8
	_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&all)), 0, setSize, 0, 0)
	if e != 0 {
		return errors.New("block signals: " + e.Error())
	}
	root, err := syscall.Open("/", oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return errors.New("open root: " + err.Error())
	}
	s.root = root
	if e := s.statxOf(root); e != 0 {
		return errors.New("look at root: " + e.Error())
	}
	s.mount = s.statx.mountID
	return nil
}

// loop answers calls until it cannot.
func (s *supervisor) loop(listener int) error {
	s.listener = uintptr(listener)
	// Linux 6.6. Without it answers come later, that is all.
	_ = s.ioctl(notifSetFlags, flagSync)
	for {
		switch e := s.receive(); e {
		case 0:
		case syscall.EINTR, syscall.ENOENT: // the process was killed meanwhile
			continue
		default:
			return errors.New("receive system call: " + e.Error())
		}
		if e := s.respond(s.answer()); e != 0 && e != syscall.ENOENT {
			return errors.New("answer system call: " + e.Error())
		}
	}
}

// receive waits for a call. It tells Go's scheduler of that wait only where no call is
// near. A goroutine that is in a system call whenever the scheduler looks loses its
// processor each time, gets it back by way of another thread, and is looked at again
// 20 microseconds later (retake and sysmon in Go's runtime): that cost more than the
// answers. What the scheduler is not told of must end soon, because who stops all
// goroutines waits for it: the first wait has a limit, and the call is there after it.
func (s *supervisor) receive() syscall.Errno {
	s.call = notification{}
	call := uintptr(unsafe.Pointer(&s.call))
	s.poll = pollFd{fd: int32(s.listener), events: pollIn}
	s.wait = syscall.Timespec{Nsec: busyWait}
	n, _, _ := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&s.poll)), 1, uintptr(unsafe.Pointer(&s.wait)), 0, 0, 0)
	if int(n) == 1 && s.poll.ready == pollIn {
		// It does not block: where the process was killed meanwhile, it is ENOENT.
		return s.ioctl(notifRecv, call)
	}
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, s.listener, notifRecv, call)
	return e
}

func (s *supervisor) respond(a answer) syscall.Errno {
	if a.how == sent {
		return 0
	}
	r := response{id: s.call.id, value: a.value, errno: -int32(a.errno)}
	if a.errno != 0 {
		r.value = 0
	}
	if a.how == pass {
		r = response{id: s.call.id, flags: flagContinue}
	}
	return s.ioctl(notifSend, uintptr(unsafe.Pointer(&r)))
}

// valid tells whether the call still waits: if not, what was found under its
// process id may belong to another process.
func (s *supervisor) valid() bool {
	return s.ioctl(notifIDValid, uintptr(unsafe.Pointer(&s.call.id))) == 0
}

func (s *supervisor) ioctl(request, arg uintptr) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, s.listener, request, arg)
	return e
}

// addFD gives the process the open file fd as the result of its call.
func (s *supervisor) addFD(fd int, cloexec bool) answer {
	a := struct {
		id                        uint64
		flags, src, dst, newFlags uint32
	}{id: s.call.id, flags: addFDFlagSend, src: uint32(fd)}
	if cloexec {
		a.newFlags = syscall.O_CLOEXEC
	}
	if e := s.ioctl(notifAddFD, uintptr(unsafe.Pointer(&a))); e != 0 {
		return fails(e) // EMFILE of the process, or it is gone
	}
	return answer{how: sent}
}

func arg32(v uint64) int32 { return int32(uint32(v)) }
