// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"text/template/parse"
)

// loop executes range: over lists, maps in the order of their keys, and numbers.
func (s *state) loop(dot reflect.Value, n *parse.RangeNode) (control, error) {
	defer s.forget(len(s.vars))
	value, err := s.pipe(dot, n.Pipe)
	if err != nil {
		return next, err
	}
	value, _ = indirect(value)
	mark := len(s.vars)
	turn := func(key, elem reflect.Value) (bool, error) {
		s.declare(n.Pipe, key, elem)
		c, err := s.list(elem, n.List)
		s.forget(mark)
		return c != stopLoop && err == nil, err
	}
	switch value.Kind() {
	case reflect.Slice, reflect.Array:
		for i := range value.Len() {
			if more, err := turn(reflect.ValueOf(i), value.Index(i)); !more {
				return next, err
			}
		}
		if value.Len() > 0 {
			return next, nil
		}
	case reflect.Map:
		for _, key := range sortedKeys(value) {
			if more, err := turn(key, value.MapIndex(key)); !more {
				return next, err
			}
		}
		if value.Len() > 0 {
			return next, nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if len(n.Pipe.Decl) > 1 {
			return next, fmt.Errorf("can't use %v to iterate over more than one variable", value)
		}
		for i := range value.Int() {
			if more, err := turn(reflect.ValueOf(i).Convert(value.Type()), reflect.ValueOf(i).Convert(value.Type())); !more {
				return next, err
			}
		}
		if value.Int() > 0 {
			return next, nil
		}
	case reflect.Invalid: // nil: as a list without elements
	default:
		return next, fmt.Errorf("range can't iterate over %v", value)
	}
	return s.list(dot, n.ElseList)
}

// declare sets the variables of a range for one turn. They were declared with the
// whole value by the pipeline, outside of the turns.
func (s *state) declare(p *parse.PipeNode, key, elem reflect.Value) {
	values := []reflect.Value{elem}
	if len(p.Decl) > 1 {
		values = []reflect.Value{key, elem}
	}
	for i, v := range values[:min(len(values), len(p.Decl))] {
		if p.IsAssign {
			_ = s.set(p.Decl[i].Ident[0], v) // the parser saw that it is there
			continue
		}
		s.vars = append(s.vars, variable{p.Decl[i].Ident[0], v})
	}
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		switch a.Kind() {
		case reflect.String:
			return cmp.Compare(a.String(), b.String())
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			return cmp.Compare(a.Int(), b.Int())
		}
		return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return keys
}
