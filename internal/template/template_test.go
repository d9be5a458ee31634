// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/opencontainers/go-digest"
)

type inner struct {
	Name string
	List []string
	Next *inner
}

type data struct {
	inner
	ID      digest.Digest
	Time    time.Time
	At, Nil *time.Time
	N       int
	U       uint8
	F       float64
	B       bool
	Any     any
	None    any
	Map     map[string]string
	Anys    map[string]any
	Ints    map[int]string
	Empty   []string
	In      inner
	Ptr     *inner
	hidden  string
}

func values() []any {
	at := time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC)
	last := &inner{Name: "last"}
	d := data{
		inner: inner{Name: "promoted"}, ID: digest.FromString("x"), Time: at, At: &at, N: 7, U: 200, F: 1.5, B: true, Any: "any",
		Map: map[string]string{"b": "2", "a": "1"}, Anys: map[string]any{"x": 1, "y": []string{"z"}, "n": nil}, Ints: map[int]string{10: "ten", 2: "two"},
		In: inner{Name: "<i>", List: []string{"p", "q", "r"}, Next: last}, Ptr: last, hidden: "h",
	}
	return []any{d, &d, map[string]any{"In": map[string]any{"List": []string{"m"}}, "N": 3}}
}

// reference is what text/template prints.
func reference(text string, v any) (string, error) {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"upper": strings.ToUpper, "lower": strings.ToLower, "join": strings.Join,
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, v)
	return b.String(), err
}

func ours(text string, v any) (string, error) {
	t, err := Parse("format", text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, v)
	return b.String(), err
}

var texts = []string{
	"", "plain", "{{/* c */}}x", "{{.}}", "{{.N}} {{.U}} {{.F}} {{.B}}", "{{.Name}}", "{{.In.Name}} {{.In.Next.Name}} {{.Ptr.Name}}", "{{.In.Next.Next.Name}}", "{{.Ptr}}",
	"{{.hidden}}", "{{.Missing}}", "{{.In.Missing}}", "{{.Map.a}} {{.Map.zz}}", "{{.Anys.x}} {{.Anys.zz}} {{.Anys.zz.more}} {{.Anys.n}}", "{{.Any}} {{.None}}", "{{.None.X}}", "{{.N.X}}",
	"{{.ID}} {{.ID.Encoded}} {{.ID.Algorithm}} {{.ID.String}}", `{{.Time.Format "2006-01-02"}} {{.Time.Unix}} {{.Time.Year}} {{.Time.UTC.Hour}} {{.Time.IsZero}}`, `{{.At.Format "15:04"}} {{.At}}`, "{{.Nil}}", `{{.Nil.Unix}}`,
	`{{.Time.Format}}`, `{{.Time.Year 1}}`, `{{.N 1}}`, `{{"2006" | .Time.Format}}`,
	"{{range .In.List}}{{.}},{{end}}", "{{range $i, $e := .In.List}}{{$i}}={{$e}} {{end}}", "{{range .Empty}}x{{else}}none{{end}}", "{{range $k, $v := .Map}}{{$k}}{{$v}};{{end}}", "{{range .Ints}}{{.}} {{end}}",
	"{{range .None}}x{{else}}nil{{end}}", "{{range .Nil}}x{{else}}nil{{end}}", "{{range .N}}{{.}}{{end}}", "{{range 3}}{{.}}{{end}}", "{{range $i := 2}}{{$i}}{{end}}", "{{range .F}}x{{end}}", "{{range $i, $e := 2}}{{$i}}{{end}}",
	"{{range .In.List}}{{if eq . \"q\"}}{{break}}{{end}}{{.}}{{end}}", "{{range .In.List}}{{if eq . \"q\"}}{{continue}}{{end}}{{.}}{{end}}", "{{$x := 1}}{{range .In.List}}{{$x = .}}{{end}}{{$x}}", "{{range $x := .In.List}}{{end}}{{.N}}",
	"{{if .B}}y{{else}}n{{end}}{{if .Empty}}y{{else if .N}}N{{end}}{{if .Nil}}y{{else}}n{{end}}", "{{with .In}}{{.Name}}{{end}}{{with .Empty}}x{{else with .Map}}{{.a}}{{end}}", "{{with $x := .N}}{{$x}}{{.}}{{$.B}}{{end}}", "{{if $x := .N}}{{$x}}{{end}}{{$.N}}",
	`{{define "t"}}[{{.}}]{{end}}{{template "t" .N}}{{template "t"}}{{block "b" .Any}}<{{.}}>{{end}}`, `{{template "none"}}`,
	`{{json .In}} {{json .Nil}} {{.Map | json}}`, `{{upper .Name}} {{.Name | lower | printf "%q"}} {{upper .N}}`, `{{join .In.List "+"}} {{join .N "x"}}`, `{{printf "%d-%s-%v" .N .Name .At}} {{printf "%s" .ID}} {{printf 1}}`,
	`{{print 1 2 "a" "b" nil}} {{println .N}}`, `{{len .In.List}} {{len .Map}} {{len "abc"}} {{len .N}}`, `{{len .Nil}}`, `{{index .In.List 1}} {{index .Map "a"}} {{index .Map "zz"}} {{index .Ints 2}}`, `{{index .In.List 9}}`, `{{index .In.List -1}}`, `{{index .Map 1}}`, `{{index .Anys "y" 0}}`,
	`{{slice .In.List 1}} {{slice .In.List 1 2}} {{slice "hello" 1 3}}`, `{{slice .In.List 2 1}}`, `{{slice .In.List 4}}`, `{{slice .N 1}}`,
	`{{eq .N 7}} {{eq .N 1 2 7}} {{ne .Name "x"}} {{lt .N 8}} {{le .U 200}} {{gt .F 1.0}} {{ge "b" "a"}} {{eq .B true}}`, `{{eq .N "7"}}`, `{{eq .N .U}} {{lt .N .U}} {{gt .U .N}}`, `{{lt .B true}}`, `{{eq .N}}`, `{{eq .In .In}}`, `{{eq .Nil nil}}`, `{{eq .None nil}}`, `{{lt .N .F}}`, `{{lt .In 1}}`,
	`{{and .N .Empty .Missing}} {{or .Empty .N .Missing}} {{not .B}} {{and 1 2}} {{or 0 ""}} {{.N | and 1}} {{not 1 2}}`, `{{and}}`,
	`{{html .In.Name}} {{js "a'b"}} {{urlquery "a b"}}`, `{{1}} {{0x10}} {{1e3}} {{1.5}} {{'a'}} {{true}} {{"s\n"}} {{` + "`r`" + `}}`, `{{99999999999999999999}}`, `{{1i}}`, `{{nil}}`, `{{1 2}}`, `{{.N | 3}}`,
	`{{(index .In.List 0) | upper}} {{(.In).Name}} {{(.Time).Year}}`, `{{nofunc}}`, `{{call .N}}`, `{{.N`, `{{end}}`, `{{$y}}`, "a {{- 1 -}} b", `{{$}}{{$.N}}`, `{{$x := .In}}{{$x.Name}}{{$x.Next.Name}}`, `{{with .Anys.y}}{{index . 0}}{{end}}`, `{{range $k, $v := .Anys}}{{$k}}:{{$v}} {{end}}`,
}

func TestAsTextTemplate(t *testing.T) {
	for _, text := range texts {
		for i, v := range values() {
			compareOne(t, text, i, v)
		}
	}
}

func compareOne(t *testing.T, text string, i int, v any) {
	t.Helper()
	want, wantErr := reference(text, v)
	got, err := ours(text, v)
	if (err != nil) != (wantErr != nil) {
		t.Errorf("%s\nof value %d: error %v, want %v", text, i, err, wantErr)
		return
	}
	if err == nil && got != want {
		t.Errorf("%s\nof value %d:\ngot  %q\nwant %q", text, i, got, want)
	}
}

// What one of the two refuses may differ in methods; what both print is the same.
func FuzzTemplate(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "range") && strings.ContainsAny(text, "0123456789") || strings.Contains(text, "template") || strings.Contains(text, "%") {
			return // could run for very long in both
		}
		for i, v := range values() {
			want, wantErr := reference(text, v)
			got, err := ours(text, v)
			if err == nil && wantErr == nil && got != want {
				t.Errorf("%s\nof value %d:\ngot  %q\nwant %q", text, i, got, want)
			}
		}
	})
}
