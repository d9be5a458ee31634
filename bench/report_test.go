// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 100}, 3.5},
	} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestRow(t *testing.T) {
	for _, c := range []struct {
		name      string
		row       row
		ratio     float64
		goal, met string
	}{
		{"own value", row{ours: []float64{0.004}, other: []float64{0.016}, goal: goal{most: 0.005}}, 0.25, "≤ 5 ms", "yes"},
		{"own value missed", row{ours: []float64{0.006}, goal: goal{most: 0.005}}, 0, "≤ 5 ms", "**no**"},
		{"ratios of pairs", row{ours: []float64{1, 10, 3}, other: []float64{2, 20, 2}, goal: goal{most: 0.4, ratio: true}}, 0.5, "≤ 0.40×", "**no**"},
		{"memory", row{unit: megabytes, ours: []float64{150}, goal: goal{most: limitRSS}}, 0, "≤ 200 MB", "yes"},
		{"no goal", row{ours: []float64{1}, other: []float64{1}}, 1, "–", "–"},
	} {
		if got := c.row.ratio(); got != c.ratio {
			t.Errorf("%s: ratio is %v, want %v", c.name, got, c.ratio)
		}
		if got := c.row.goalText(); got != c.goal {
			t.Errorf("%s: goal is %q, want %q", c.name, got, c.goal)
		}
		if got := c.row.met(); got != c.met {
			t.Errorf("%s: met is %q, want %q", c.name, got, c.met)
		}
	}
}

func TestRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(path, []byte("top\n"+begin+"\nold\n"+end+"\nbottom\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := rewrite(path, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "top\n" + begin + "\n\nnew\n\n" + end + "\nbottom\n"; string(got) != want {
		t.Errorf("the document is %q, want %q", got, want)
	}
	if err := os.WriteFile(path, []byte("no marks\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(path, "new\n"); err == nil || !strings.Contains(err.Error(), begin) {
		t.Errorf("rewrite of a document without marks says %v, want the missing line named", err)
	}
}

func TestEvents(t *testing.T) {
	r := ran{output: []byte(`{"vertexes":[{"digest":"a","name":"[app] run","started":"2026-01-01T00:00:00Z"}]}
{"logs":[{"vertex":"a","stream":1,"data":"eA==","timestamp":"2026-01-01T00:00:02Z"}]}
{"vertexes":[{"digest":"a","name":"[app] run","started":"2026-01-01T00:00:00Z","completed":"2026-01-01T00:00:03Z"}]}
`)}
	events, err := r.events()
	if err != nil {
		t.Fatal(err)
	}
	s, err := find(events, "[app] run")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.ended.Sub(s.logged).Seconds(); got != 1 {
		t.Errorf("from the last line to the end it takes %v s, want 1", got)
	}
	if _, err := find(events, "[app] base"); err == nil {
		t.Error("a step that is not there was found")
	}
}

func TestDataIsTheSame(t *testing.T) {
	dir := t.TempDir()
	var got [2]string
	for i := range got {
		path := filepath.Join(dir, "data.tar")
		if err := writeData(path, 0, fileCount(0.004), nothing); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = string(data)
	}
	if got[0] != got[1] {
		t.Errorf("data made twice differs (%d and %d bytes)", len(got[0]), len(got[1]))
	}
}
