// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// basename is basename: NAME [SUFFIX].
func basename(_ context.Context, p *proc, args []string) int {
	if len(args) == 0 || len(args) > 2 {
		return p.fail(1, "usage: basename NAME [SUFFIX]")
	}
	name := path.Base(args[0])
	if len(args) == 2 && name != args[1] {
		name = strings.TrimSuffix(name, args[1])
	}
	fmt.Fprintln(p.out, name)
	return 0
}

// dirname is dirname: NAME...
func dirname(_ context.Context, p *proc, args []string) int {
	if len(args) == 0 {
		return p.fail(1, "missing operand")
	}
	for _, name := range args {
		// path.Dir would clean the rest of the name too.
		name = strings.TrimRight(name, "/")
		i := strings.LastIndexByte(name, '/')
		switch dir := strings.TrimRight(name[:max(i, 0)], "/"); {
		case i < 0 && name != "":
			fmt.Fprintln(p.out, ".")
		case dir == "":
			fmt.Fprintln(p.out, "/")
		default:
			fmt.Fprintln(p.out, dir)
		}
	}
	return 0
}

// date is date: -u, -d @SECONDS, +FORMAT with the usual letters. It does not set the clock.
func date(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "ud:RI", "utc=u date=d")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	now := time.Now()
	if d := f.last('d', ""); d != "" {
		if now, err = parseDate(d); err != nil {
			return p.fail(1, "invalid date '%s'", d)
		}
	}
	if f.has("u") {
		now = now.UTC()
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	switch {
	case f.has("R"):
		format = "%a, %d %b %Y %H:%M:%S %z"
	case f.has("I"):
		format = "%F"
	case len(f.rest) > 0 && strings.HasPrefix(f.rest[0], "+"):
		format = f.rest[0][1:]
	case len(f.rest) > 0:
		return p.fail(1, "invalid date '%s'", f.rest[0])
	}
	fmt.Fprintln(p.out, formatDate(now, format))
	return 0
}

func parseDate(text string) (time.Time, error) {
	if s, ok := strings.CutPrefix(text, "@"); ok {
		n, err := strconv.ParseInt(s, 10, 64)
		return time.Unix(n, 0), err
	}
	var t time.Time
	var err error
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err = time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return t, err
}

// formatDate is strftime(3) for the C locale. An unknown letter stays as it is.
func formatDate(t time.Time, format string) string {
	var out strings.Builder
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'D': "01/02/06", 'e': "_2",
		'F': "2006-01-02", 'H': "15", 'I': "03", 'j': "002", 'm': "01", 'M': "04", 'p': "PM", 'R': "15:04",
		'S': "05", 'T': "15:04:05", 'y': "06", 'Y': "2006", 'z': "-0700", 'Z': "MST",
	}
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		switch c := format[i]; {
		case layouts[c] != "":
			out.WriteString(t.Format(layouts[c]))
		case c == 's':
			fmt.Fprint(&out, t.Unix())
		case c == 'N':
			fmt.Fprintf(&out, "%09d", t.Nanosecond())
		case c == 'u':
			fmt.Fprint(&out, (int(t.Weekday())+6)%7+1)
		case c == 'n':
			out.WriteByte('\n')
		case c == '%':
			out.WriteByte('%')
		default:
			out.WriteString(format[i-1 : i+1])
		}
	}
	return out.String()
}

// hostname is hostname, to ask only.
func hostname(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "sf", "short=s")
	if err != nil || len(f.rest) > 0 {
		return p.fail(1, "the name can not be changed here")
	}
	name, err := os.Hostname()
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if f.has("s") {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Fprintln(p.out, name)
	return 0
}

// id is id: -u, -g, -G, -n.
func id(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "ugGnr", "user=u group=g groups=G name=n")
	if err != nil || len(f.rest) > 0 {
		return p.fail(1, "usage: id [-u|-g|-G] [-n]")
	}
	show := func(file string, n int) string {
		if name := nameOf(file, n); f.has("n") && name != "" {
			return name
		}
		return strconv.Itoa(n)
	}
	groups, err := os.Getgroups()
	if err != nil {
		return p.fail(1, "%v", err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	switch {
	case f.has("u"):
		fmt.Fprintln(p.out, show("/etc/passwd", uid))
	case f.has("g"):
		fmt.Fprintln(p.out, show("/etc/group", gid))
	case f.has("G"):
		words := []string{show("/etc/group", gid)}
		for _, g := range groups {
			if g != gid {
				words = append(words, show("/etc/group", g))
			}
		}
		fmt.Fprintln(p.out, strings.Join(words, " "))
	default:
		both := func(file string, n int) string {
			if name := nameOf(file, n); name != "" {
				return fmt.Sprintf("%d(%s)", n, name)
			}
			return strconv.Itoa(n)
		}
		words := []string{both("/etc/group", gid)}
		for _, g := range groups {
			if g != gid {
				words = append(words, both("/etc/group", g))
			}
		}
		fmt.Fprintf(p.out, "uid=%s gid=%s groups=%s\n", both("/etc/passwd", uid), words[0], strings.Join(words, ","))
	}
	return 0
}

// nameOf returns the name of an id in /etc/passwd or /etc/group, or "".
func nameOf(file string, n int) string {
	data, _ := os.ReadFile(file) // an image without users has no such file
	for line := range strings.Lines(string(data)) {
		f := strings.Split(line, ":")
		if len(f) > 2 && f[2] == strconv.Itoa(n) {
			return f[0]
		}
	}
	return ""
}

// kill is kill: -N, -NAME, -s NAME of the signals that scripts send.
func kill(_ context.Context, p *proc, args []string) int {
	signals := map[string]syscall.Signal{
		"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "KILL": syscall.SIGKILL,
		"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "TERM": syscall.SIGTERM, "CONT": syscall.SIGCONT,
		"STOP": syscall.SIGSTOP, "0": 0,
	}
	sig := syscall.SIGTERM
	if len(args) > 1 && args[0] == "-s" {
		args = append([]string{"-" + args[1]}, args[2:]...)
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := strings.TrimPrefix(strings.ToUpper(args[0][1:]), "SIG")
		known, ok := signals[name]
		if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < 65 {
			known, ok = syscall.Signal(n), true
		}
		if !ok {
			return p.fail(1, "unknown signal %s", args[0])
		}
		sig, args = known, args[1:]
	}
	status := 0
	for _, text := range args {
		if text == "--" {
			continue
		}
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = syscall.Kill(pid, sig)
		}
		if err != nil {
			status = p.failPath(text, err)
		}
	}
	return status
}

// sleep is sleep: the sum of its arguments, with s, m, h or d.
func sleep(ctx context.Context, p *proc, args []string) int {
	var total time.Duration
	for _, text := range args {
		number, unit := strings.TrimRight(text, "smhd"), time.Second
		switch strings.TrimPrefix(text, number) {
		case "", "s":
		case "m":
			unit = time.Minute
		case "h":
			unit = time.Hour
		case "d":
			unit = 24 * time.Hour
		default:
			number = ""
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || n < 0 {
			return p.fail(1, "invalid time interval '%s'", text)
		}
		total += time.Duration(n * float64(unit))
	}
	if len(args) == 0 {
		return p.fail(1, "missing operand")
	}
	timer := time.NewTimer(total)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0
	case <-ctx.Done():
		return 128 + int(syscall.SIGTERM)
	}
}

// uname is uname: -s, -n, -r, -v, -m, -o, -a.
func uname(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "snrvmoap", "all=a machine=m")
	if err != nil || len(f.rest) > 0 {
		return p.fail(1, "usage: uname [-snrvmoa]")
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return p.fail(1, "%v", err)
	}
	var words []string
	add := func(letters, text string) {
		if f.has(letters) {
			words = append(words, text)
		}
	}
	add("sa", utsField(u.Sysname))
	add("na", utsField(u.Nodename))
	add("ra", utsField(u.Release))
	add("va", utsField(u.Version))
	add("mpa", utsField(u.Machine))
	add("oa", "GNU/Linux")
	if len(words) == 0 {
		words = []string{utsField(u.Sysname)}
	}
	fmt.Fprintln(p.out, strings.Join(words, " "))
	return 0
}

// utsField reads a C string, whose characters are signed on some architectures.
func utsField[T int8 | uint8](chars [65]T) string {
	var out []byte
	for _, c := range chars {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}
