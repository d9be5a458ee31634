// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// unit is what the numbers of a row are.
type unit int

const (
	seconds unit = iota
	megabytes
)

// format writes a value for people.
func (u unit) format(v float64) string {
	switch {
	case u == megabytes:
		return fmt.Sprintf("%.1f MB", v)
	case v < 0.1:
		return fmt.Sprintf("%.2f ms", v*1000)
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1000)
	}
	return fmt.Sprintf("%.2f s", v)
}

// goal is the most that is allowed: of stacker's own value, or of its ratio to the other's. The zero value is no goal.
type goal struct {
	most  float64
	ratio bool
}

// row is one line of the table. Ours and other have a value per run; a row
// without other compares with nothing.
type row struct {
	name       string
	unit       unit
	ours       []float64
	other      []float64
	goal       goal
	ourCommand string
	otherName  string
	otherCmd   string
	note       string // what exactly is compared
}

// ratio is the median of the ratios of the pairs: a machine that slows down
// half way changes both sides of a pair.
func (r row) ratio() float64 {
	var all []float64
	for i := range min(len(r.ours), len(r.other)) {
		all = append(all, r.ours[i]/r.other[i])
	}
	return median(all)
}

func (r row) met() string {
	v := median(r.ours)
	if r.goal.ratio {
		v = r.ratio()
	}
	switch {
	case r.goal.most == 0:
		return "–"
	case v <= r.goal.most:
		return "yes"
	}
	return "**no**"
}

func (r row) goalText() string {
	switch {
	case r.goal.most == 0:
		return "–"
	case r.goal.ratio:
		return fmt.Sprintf("≤ %.2f×", r.goal.most)
	case r.unit == seconds:
		return fmt.Sprintf("≤ %.0f ms", r.goal.most*1000)
	}
	return "≤ " + fmt.Sprintf("%.0f MB", r.goal.most)
}

// median of no values is 0.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// limitRSS is what no process of a build may exceed, in MB.
const limitRSS = 200

// memoryRow begins the row of a peak.
func memoryRow(name string) row {
	return row{
		name: name, unit: megabytes, goal: goal{most: limitRSS},
		note: "Largest resident set (getrusage) of any process of what stacker did for the rows before. A process inherits the peak of the one that started it, " +
			"so that values below about 25 MB are this program's own.",
	}
}

// report collects rows.
type report struct {
	options
	machine string
	load    string // of the machine before the first workload: near 0 where the numbers shall count
	rows    []row
}

func (r *report) add(rows ...row) { r.rows = append(r.rows, rows...) }

// markdown is the table, then the commands of each row.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s Load average when it began: %s.\n\n", r.machine, r.load)
	command := fmt.Sprintf("bench/run -runs %d", r.runs)
	if r.only != "" {
		command += " -only " + r.only
	}
	if r.scale != 1 {
		command += fmt.Sprintf(" -scale %g", r.scale)
	}
	fmt.Fprintf(&b, "Measured with `%s`: medians of %d pairs; the ratio is the median of the pairs' ratios.\n", command, r.runs)
	if r.scale != 1 {
		fmt.Fprintf(&b, "The data has %g of its full size: this run proves nothing about the goals.\n", r.scale)
	}
	b.WriteString("\n| | workload | stacker | beside it | | ratio | goal | met |\n|---|---|---:|---|---:|---:|---:|---|\n")
	for i, w := range r.rows {
		other, ratio := "–", "–"
		if len(w.other) > 0 {
			other, ratio = w.unit.format(median(w.other)), fmt.Sprintf("%.2f×", w.ratio())
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s | %s | %s |\n", i+1, w.name, w.unit.format(median(w.ours)), orDash(w.otherName), other, ratio, w.goalText(), w.met())
	}
	b.WriteString("\nWhat ran, and what the numbers are:\n")
	told := map[string]int{}
	for i, w := range r.rows {
		note := w.note
		if first, ok := told[note]; ok {
			note = fmt.Sprintf("As %d.", first)
		} else {
			told[note] = i + 1
		}
		fmt.Fprintf(&b, "\n%d. %s\n", i+1, note)
		if w.ourCommand != "" {
			fmt.Fprintf(&b, "   - stacker: `%s`\n", w.ourCommand)
		}
		if w.otherCmd != "" {
			fmt.Fprintf(&b, "   - beside it: `%s`\n", w.otherCmd)
		}
	}
	return b.String()
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// The lines of the document between which the table stands.
const (
	begin = "<!-- bench/run writes from here -->"
	end   = "<!-- to here -->"
)

// rewrite replaces what stands between the two marks of a document.
func rewrite(path, table string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("rewrite document: %w", err)
	}
	before, rest, ok1 := bytes.Cut(data, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok1 || !ok2 {
		return fmt.Errorf("rewrite %s: it needs the lines %q and %q around the table", path, begin, end)
	}
	text := fmt.Sprintf("%s%s\n\n%s\n%s%s", before, begin, table, end, after)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("rewrite document: %w", err)
	}
	return nil
}

// machine describes where the numbers come from.
func machine(ctx context.Context, a *area) string {
	first := func(argv ...string) string {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return argv[0] + " (missing)"
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSpace(line)
	}
	var versions []string
	for _, p := range []string{"buildah", "crun", "runc", "podman", "skopeo", "umoci", "pigz", "zstd", "openssl"} {
		argument := "--version"
		if p == "openssl" {
			argument = "version"
		}
		version, _, _ := strings.Cut(first(p, argument), " (image-spec")
		versions = append(versions, strings.Trim(version, "* "))
	}
	return fmt.Sprintf("%s, %d × %s, %s of memory, Linux %s, loop ext4 with a journal. %s. Beside it: %s.",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), value("/proc/cpuinfo", "model name"), value("/proc/meminfo", "MemTotal"),
		first("uname", "-r"), first(a.path(binDir+"/stacker"), "version"), strings.Join(versions, "; "))
}

// loadAverage is the number of processes that wanted to run in the last minute.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(data), " ")
	return load
}

// value is the first "name: value" of a file in /proc.
func value(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}
