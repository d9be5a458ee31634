// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package template prints values as the Go templates of --format say.
//
// The language is that of package text/template, whose parser it uses, with the
// functions json, upper, lower and join, and without "call". What is different is
// how a template reaches methods: text/template looks them up by name, so that the
// linker must keep every exported method of every type of the program, which was a
// fifth of it. Here there are the few methods of method.go; fields, map keys and all
// else are reached as there. The test compares the two.
package template

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template/parse"
)

// maxDepth bounds how deep templates call each other.
const maxDepth = 1000

// Template is a parsed template.
type Template struct {
	top   *parse.Tree
	named map[string]*parse.Tree
}

// Parse reads a template. The error says where in the text something is wrong.
func Parse(name, text string) (*Template, error) {
	known := map[string]any{"and": true, "or": true}
	for f := range functions {
		known[f] = true // the parser wants to know the names
	}
	named, err := parse.Parse(name, text, "", "", known)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	return &Template{top: named[name], named: named}, nil
}

// Execute prints data by the template.
func (t *Template) Execute(out io.Writer, data any) error {
	if t.top == nil { // an empty text, or definitions alone
		return nil
	}
	value := reflect.ValueOf(data)
	s := &state{template: t, out: out, vars: []variable{{"$", value}}}
	_, err := s.walk(value, t.top.Root)
	return err
}

// state is one execution.
type state struct {
	template *Template
	out      io.Writer
	vars     []variable
	depth    int
}

type variable struct {
	name  string
	value reflect.Value
}

// control is how a list ended.
type control int

const (
	next control = iota
	stopLoop
	nextTurn
)

func (s *state) walk(dot reflect.Value, node parse.Node) (control, error) {
	switch n := node.(type) {
	case *parse.ListNode:
		return s.list(dot, n)
	case *parse.TextNode:
		_, err := s.out.Write(n.Text)
		return next, err
	case *parse.ActionNode:
		value, err := s.pipe(dot, n.Pipe)
		if err == nil && len(n.Pipe.Decl) == 0 {
			err = s.print(n, value)
		}
		return next, err
	case *parse.IfNode:
		return s.choose(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return s.choose(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return s.loop(dot, n)
	case *parse.TemplateNode:
		return next, s.call(dot, n)
	case *parse.BreakNode:
		return stopLoop, nil
	case *parse.ContinueNode:
		return nextTurn, nil
	case *parse.CommentNode:
		return next, nil
	}
	return next, fmt.Errorf("%s: cannot be executed", node)
}

func (s *state) list(dot reflect.Value, list *parse.ListNode) (control, error) {
	if list == nil {
		return next, nil
	}
	for _, n := range list.Nodes {
		if c, err := s.walk(dot, n); c != next || err != nil {
			return c, err
		}
	}
	return next, nil
}

// choose executes if and with.
func (s *state) choose(dot reflect.Value, n *parse.BranchNode, with bool) (control, error) {
	defer s.forget(len(s.vars))
	value, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return next, err
	}
	if !truth(value) {
		return s.list(dot, n.ElseList)
	}
	if with {
		dot = value
	}
	return s.list(dot, n.List)
}

// forget drops the variables of an inner block.
func (s *state) forget(mark int) { s.vars = s.vars[:mark] }

// call executes another template.
func (s *state) call(dot reflect.Value, n *parse.TemplateNode) error {
	tree := s.template.named[n.Name]
	if tree == nil {
		return fmt.Errorf("template %q is not defined", n.Name)
	}
	if s.depth == maxDepth {
		return fmt.Errorf("template %q: more than %d templates within each other", n.Name, maxDepth)
	}
	dot, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return err
	}
	inner := &state{template: s.template, out: s.out, vars: []variable{{"$", dot}}, depth: s.depth + 1}
	_, err = inner.walk(dot, tree.Root)
	return err
}

// pipe evaluates a pipeline and sets the variables that it declares.
func (s *state) pipe(dot reflect.Value, p *parse.PipeNode) (value reflect.Value, err error) {
	if p == nil {
		return value, nil
	}
	piped := false
	for _, cmd := range p.Cmds {
		if value, err = s.command(dot, cmd, value, piped); err != nil {
			return value, err
		}
		if value.Kind() == reflect.Interface && value.NumMethod() == 0 {
			value = value.Elem()
		}
		piped = true
	}
	for _, v := range p.Decl {
		if !p.IsAssign {
			s.vars = append(s.vars, variable{v.Ident[0], value})
		} else if err := s.set(v.Ident[0], value); err != nil {
			return value, err
		}
	}
	return value, nil
}

func (s *state) set(name string, value reflect.Value) error {
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == name {
			s.vars[i].value = value
			return nil
		}
	}
	return fmt.Errorf("undefined variable: %s", name)
}

func (s *state) get(name string) (reflect.Value, error) {
	for i := len(s.vars) - 1; i >= 0; i-- {
		if s.vars[i].name == name {
			return s.vars[i].value, nil
		}
	}
	return reflect.Value{}, fmt.Errorf("undefined variable: %s", name)
}

// command evaluates one command of a pipeline. What the one before gave is its last
// argument.
func (s *state) command(dot reflect.Value, cmd *parse.CommandNode, last reflect.Value, piped bool) (reflect.Value, error) {
	first, args := cmd.Args[0], cmd.Args[1:]
	switch n := first.(type) {
	case *parse.IdentifierNode:
		return s.function(dot, n.Ident, args, last, piped)
	case *parse.FieldNode, *parse.ChainNode, *parse.VariableNode:
		return s.reach(dot, first, args, last, piped)
	}
	if len(args) > 0 || piped {
		return reflect.Value{}, fmt.Errorf("can't give argument to non-function %s", first)
	}
	if _, ok := first.(*parse.NilNode); ok {
		return reflect.Value{}, errors.New("nil is not a command")
	}
	return s.argument(dot, first)
}

// argument evaluates a word that is not called with others.
func (s *state) argument(dot reflect.Value, node parse.Node) (reflect.Value, error) {
	switch n := node.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.NilNode:
		return reflect.Value{}, nil
	case *parse.BoolNode:
		return reflect.ValueOf(n.True), nil
	case *parse.StringNode:
		return reflect.ValueOf(n.Text), nil
	case *parse.NumberNode:
		return number(n)
	case *parse.PipeNode:
		return s.pipe(dot, n)
	case *parse.IdentifierNode:
		return s.function(dot, n.Ident, nil, reflect.Value{}, false)
	case *parse.FieldNode, *parse.ChainNode, *parse.VariableNode:
		return s.reach(dot, node, nil, reflect.Value{}, false)
	}
	return reflect.Value{}, fmt.Errorf("can't handle %s", node)
}

// number gives a constant the type that Go would give it.
func number(n *parse.NumberNode) (reflect.Value, error) {
	hex := len(n.Text) > 2 && n.Text[0] == '0' && (n.Text[1] == 'x' || n.Text[1] == 'X') && !strings.ContainsAny(n.Text, "pP")
	switch {
	case n.IsComplex:
		return reflect.ValueOf(n.Complex128), nil
	case n.IsFloat && !hex && n.Text[0] != '\'' && strings.ContainsAny(n.Text, ".eEpP"):
		return reflect.ValueOf(n.Float64), nil
	case n.IsInt && int64(int(n.Int64)) == n.Int64:
		return reflect.ValueOf(int(n.Int64)), nil
	}
	return reflect.Value{}, fmt.Errorf("%s overflows int", n.Text)
}

// print writes what an action gave.
func (s *state) print(node parse.Node, value reflect.Value) error {
	v, ok := printable(value)
	if !ok {
		return fmt.Errorf("can't print %s of type %s", node, value.Type())
	}
	_, err := fmt.Fprint(s.out, v)
	return err
}
