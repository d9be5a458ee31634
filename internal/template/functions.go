// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"
	"text/template/parse"
)

// functions are those of text/template, but for "and" and "or", which do not
// evaluate all of their arguments, and "call"; and those that docker's templates have.
var functions = map[string]func(args []reflect.Value) (any, error){
	"not":      func(a []reflect.Value) (any, error) { return !truth(a[0]), nil },
	"print":    func(a []reflect.Value) (any, error) { return fmt.Sprint(plains(a)...), nil },
	"println":  func(a []reflect.Value) (any, error) { return fmt.Sprintln(plains(a)...), nil },
	"printf":   printf,
	"html":     func(a []reflect.Value) (any, error) { return template.HTMLEscaper(plains(a)...), nil },
	"js":       func(a []reflect.Value) (any, error) { return template.JSEscaper(plains(a)...), nil },
	"urlquery": func(a []reflect.Value) (any, error) { return template.URLQueryEscaper(plains(a)...), nil },
	"len":      length,
	"index":    index,
	"slice":    slice,
	"eq":       equal,
	"ne":       func(a []reflect.Value) (any, error) { return negate(equal(a)) },
	"lt":       func(a []reflect.Value) (any, error) { return compare(a, func(c int) bool { return c < 0 }) },
	"le":       func(a []reflect.Value) (any, error) { return compare(a, func(c int) bool { return c <= 0 }) },
	"gt":       func(a []reflect.Value) (any, error) { return compare(a, func(c int) bool { return c > 0 }) },
	"ge":       func(a []reflect.Value) (any, error) { return compare(a, func(c int) bool { return c >= 0 }) },
	"json":     asJSON,
	"upper":    func(a []reflect.Value) (any, error) { return onText(a[0], strings.ToUpper) },
	"lower":    func(a []reflect.Value) (any, error) { return onText(a[0], strings.ToLower) },
	"join":     join,
}

// arity is how many arguments a function wants; -1: at least one.
var arity = map[string]int{
	"not": 1, "len": 1, "json": 1, "upper": 1, "lower": 1, "join": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
	"printf": -1, "index": -1, "slice": -1, "eq": -1,
}

func (s *state) function(dot reflect.Value, name string, args []parse.Node, last reflect.Value, piped bool) (reflect.Value, error) {
	if name == "and" || name == "or" {
		return s.andOr(dot, name == "and", args, last, piped)
	}
	values, err := s.arguments(dot, args, last, piped)
	if err != nil {
		return reflect.Value{}, err
	}
	switch want, fixed := arity[name]; {
	case fixed && want < 0 && len(values) == 0:
		return reflect.Value{}, fmt.Errorf("wrong number of args for %s: want at least 1 got 0", name)
	case fixed && want > 0 && len(values) != want:
		return reflect.Value{}, fmt.Errorf("wrong number of args for %s: want %d got %d", name, want, len(values))
	}
	out, err := functions[name](values)
	if err != nil {
		return reflect.Value{}, fmt.Errorf("error calling %s: %w", name, err)
	}
	if v, ok := out.(reflect.Value); ok {
		return v, nil
	}
	return reflect.ValueOf(out), nil
}

func (s *state) arguments(dot reflect.Value, args []parse.Node, last reflect.Value, piped bool) ([]reflect.Value, error) {
	var out []reflect.Value
	for _, a := range args {
		v, err := s.argument(dot, a)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	if piped {
		out = append(out, last)
	}
	return out, nil
}

// andOr evaluates arguments as far as they decide, and gives the one that did.
func (s *state) andOr(dot reflect.Value, and bool, args []parse.Node, last reflect.Value, piped bool) (v reflect.Value, err error) {
	if len(args) == 0 && !piped {
		return v, errors.New("wrong number of args for and or or: want at least 1 got 0")
	}
	for _, a := range args {
		if v, err = s.argument(dot, a); err != nil || truth(v) != and {
			return v, err
		}
	}
	if piped {
		v = last
	}
	return v, nil
}

// truth tells whether a value is none of its type's empty ones.
func truth(v reflect.Value) bool {
	if !v.IsValid() || !v.CanInterface() {
		return false
	}
	t, _ := template.IsTrue(v.Interface())
	return t
}

func plains(args []reflect.Value) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = plain(a)
	}
	return out
}

func printf(a []reflect.Value) (any, error) {
	format, ok := plain(a[0]).(string)
	if !ok {
		return nil, fmt.Errorf("wrong type for value; expected string; got %T", plain(a[0]))
	}
	return fmt.Sprintf(format, plains(a[1:])...), nil
}

func asJSON(a []reflect.Value) (any, error) {
	b, err := json.Marshal(plain(a[0]))
	return string(b), err
}

func onText(v reflect.Value, f func(string) string) (any, error) {
	v, _ = indirect(v)
	if v.Kind() != reflect.String {
		return nil, fmt.Errorf("wrong type for value; expected string; got %T", plain(v))
	}
	return f(v.String()), nil
}

func join(a []reflect.Value) (any, error) {
	list, ok := plain(a[0]).([]string)
	by, _ := indirect(a[1])
	if !ok && a[0].IsValid() || by.Kind() != reflect.String {
		return nil, fmt.Errorf("want a list of strings and a string; got %T and %T", plain(a[0]), plain(a[1]))
	}
	return strings.Join(list, by.String()), nil
}

func length(a []reflect.Value) (any, error) {
	v, isNil := indirect(a[0])
	if !v.IsValid() || isNil {
		return nil, errors.New("len of nil pointer")
	}
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
		return v.Len(), nil
	}
	return nil, fmt.Errorf("len of type %s", v.Type())
}

// index gives an element of a list or a map, or of one in another.
func index(a []reflect.Value) (any, error) {
	v := a[0]
	if !v.IsValid() {
		return nil, errors.New("index of untyped nil")
	}
	for _, i := range a[1:] {
		isNil := false
		if v, isNil = indirect(v); isNil {
			return nil, errors.New("index of nil pointer")
		}
		i, _ = indirect(i)
		switch v.Kind() {
		case reflect.Slice, reflect.Array, reflect.String:
			n, err := position(i, v.Len()-1)
			if err != nil {
				return nil, err
			}
			v = v.Index(n)
		case reflect.Map:
			if !i.IsValid() || !i.Type().AssignableTo(v.Type().Key()) {
				return nil, fmt.Errorf("value has type %T; should be %s", plain(i), v.Type().Key())
			}
			elem := v.MapIndex(i)
			if !elem.IsValid() {
				elem = reflect.Zero(v.Type().Elem())
			}
			v = elem
		default:
			return nil, fmt.Errorf("can't index item of type %s", v.Type())
		}
	}
	return v, nil
}

// position reads a number from 0 to most.
func position(v reflect.Value, most int) (int, error) {
	n := int64(-1)
	switch {
	case v.CanInt():
		n = v.Int()
	case v.CanUint() && v.Uint() < 1<<62:
		n = int64(v.Uint())
	default:
		return 0, fmt.Errorf("cannot index with type %T", plain(v))
	}
	if n < 0 || n > int64(most) {
		return 0, fmt.Errorf("index out of range: %d", n)
	}
	return int(n), nil
}

// slice cuts a list or a text.
func slice(a []reflect.Value) (any, error) {
	v, isNil := indirect(a[0])
	if !v.IsValid() || isNil {
		return nil, errors.New("slice of untyped nil")
	}
	if k := v.Kind(); k != reflect.String && k != reflect.Slice {
		return nil, fmt.Errorf("can't slice item of type %s", v.Type())
	}
	if len(a) > 3 {
		return nil, fmt.Errorf("too many slice indexes: %d", len(a)-1)
	}
	ends := [2]int{0, v.Len()}
	for i, arg := range a[1:] {
		arg, _ = indirect(arg)
		n, err := position(arg, v.Len())
		if err != nil {
			return nil, err
		}
		ends[i] = n
	}
	if ends[0] > ends[1] {
		return nil, fmt.Errorf("invalid slice index: %d > %d", ends[0], ends[1])
	}
	return v.Slice(ends[0], ends[1]), nil
}
