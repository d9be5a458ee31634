// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"fmt"
	"reflect"
	"text/template/parse"
)

// reach evaluates a chain of names: .A.B, $x.A or (pipeline).A. Arguments belong to
// the last name.
func (s *state) reach(dot reflect.Value, node parse.Node, args []parse.Node, last reflect.Value, piped bool) (at reflect.Value, err error) {
	var names []string
	switch n := node.(type) {
	case *parse.FieldNode:
		at, names = dot, n.Ident
	case *parse.VariableNode:
		names = n.Ident[1:]
		at, err = s.get(n.Ident[0])
	case *parse.ChainNode:
		names = n.Field
		if _, ok := n.Node.(*parse.NilNode); ok {
			return at, fmt.Errorf("indirection through explicit nil in %s", n)
		}
		at, err = s.argument(dot, n.Node)
	}
	if err != nil {
		return at, err
	}
	var values []any
	if len(names) > 0 {
		if values, err = s.interfaces(dot, args, last, piped); err != nil {
			return at, err
		}
	} else if len(args) > 0 || piped {
		return at, fmt.Errorf("can't give argument to non-function %s", node)
	}
	for i, name := range names {
		var with []any
		if i == len(names)-1 {
			with = values
		}
		if at, err = field(at, name, with); err != nil {
			return at, err
		}
	}
	return at, nil
}

// interfaces evaluates arguments as plain values.
func (s *state) interfaces(dot reflect.Value, args []parse.Node, last reflect.Value, piped bool) ([]any, error) {
	values, err := s.arguments(dot, args, last, piped)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, v := range values {
		out = append(out, plain(v))
	}
	return out, nil
}

// field gives what a value has under a name.
func field(v reflect.Value, name string, args []any) (reflect.Value, error) {
	if !v.IsValid() {
		return v, nil // of a map without the key: no value
	}
	if v.CanInterface() {
		out, ok, err := method(v.Interface(), name, args)
		if ok || err != nil {
			return reflect.ValueOf(out), err
		}
	}
	typ := v.Type()
	v, isNil := indirect(v)
	if isNil {
		return reflect.Value{}, fmt.Errorf("nil pointer evaluating %s.%s", typ, name)
	}
	switch v.Kind() {
	case reflect.Struct:
		if f, ok := v.Type().FieldByName(name); ok && f.IsExported() {
			at, err := v.FieldByIndexErr(f.Index)
			if err != nil {
				return at, err
			}
			return at, without(args, name)
		}
		if v.CanInterface() {
			out, ok, err := method(v.Interface(), name, args)
			if ok || err != nil {
				return reflect.ValueOf(out), err
			}
		}
	case reflect.Map:
		key := reflect.ValueOf(name)
		if !key.Type().AssignableTo(v.Type().Key()) {
			break
		}
		if at := v.MapIndex(key); at.IsValid() {
			return at, without(args, name)
		}
		return reflect.Value{}, without(args, name) // a missing key has no value
	}
	return reflect.Value{}, fmt.Errorf("can't evaluate field %s in type %s", name, typ)
}

func without(args []any, name string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s has arguments but cannot be invoked as function", name)
	}
	return nil
}

// indirect follows pointers and interfaces to what they hold.
func indirect(v reflect.Value) (_ reflect.Value, isNil bool) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return v, true
		}
		v = v.Elem()
	}
	return v, false
}

// plain gives a value as an interface; nil where there is none.
func plain(v reflect.Value) any {
	if !v.IsValid() || !v.CanInterface() {
		return nil
	}
	return v.Interface()
}

// printable gives what of a value is printed. False: it is nothing to print.
func printable(v reflect.Value) (any, bool) {
	if v.Kind() == reflect.Pointer {
		v, _ = indirect(v)
	}
	if !v.IsValid() {
		return "<no value>", true
	}
	switch v.Interface().(type) {
	case error, fmt.Stringer:
		return v.Interface(), true
	}
	if v.CanAddr() {
		switch p := v.Addr().Interface().(type) {
		case error, fmt.Stringer:
			return p, true
		}
	}
	if k := v.Kind(); k == reflect.Chan || k == reflect.Func {
		return nil, false
	}
	return v.Interface(), true
}
