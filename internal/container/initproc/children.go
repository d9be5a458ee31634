// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
)

// children gives the processes whose parent is this one: what the kernel lists for each of the
// threads, or, where it is built without these lists (CONFIG_PROC_CHILDREN), what /proc says.
func children() []int {
	const tasks = "/proc/self/task"
	threads, err := readNames(tasks)
	var out []int
	for _, t := range threads {
		list, lerr := os.ReadFile(tasks + "/" + t + "/children")
		if lerr == syscall.ENOENT || os.IsNotExist(lerr) {
			err = lerr
		}
		out = append(out, numbers(list)...)
	}
	if err == nil {
		return out
	}
	return childrenByParent(syscall.Getpid())
}

func childrenByParent(parent int) []int {
	all, err := readNames("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, name := range all {
		pid := numbers([]byte(name))
		if len(pid) != 1 {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err == nil && parentIn(stat) == parent {
			out = append(out, pid[0])
		}
	}
	return out
}

// parentIn finds the parent in the text of /proc/PID/stat (proc_pid_stat(5)): the second field
// after the name, which is in parentheses and can hold anything.
func parentIn(stat []byte) int {
	end := len(stat) - 1
	for end >= 0 && stat[end] != ')' {
		end--
	}
	// ") S 123 …"
	if end < 0 || end+4 > len(stat) {
		return -1
	}
	f := numbers(stat[end+4:])
	if len(f) == 0 {
		return -1
	}
	return f[0]
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// numbers reads the decimal numbers at the beginning of b, with single spaces between them.
func numbers(b []byte) []int {
	var out []int
	n, digits := 0, 0
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9' && digits < 10:
			n = n*10 + int(c-'0')
			digits++
		case (c == ' ' || c == '\n') && digits > 0:
			out = append(out, n)
			n, digits = 0, 0
		default:
			return out
		}
	}
	if digits > 0 {
		out = append(out, n)
	}
	return out
}
