// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"cmp"
	"errors"
	"reflect"
)

var (
	errIncompatible = errors.New("incompatible types for comparison")
	errBasic        = errors.New("invalid type for comparison")
	errMissing      = errors.New("missing argument for comparison")
)

// equal tells whether the first value is one of the others.
func equal(a []reflect.Value) (any, error) {
	if len(a) < 2 {
		return nil, errMissing
	}
	for _, other := range a[1:] {
		same, err := equalTo(a[0], other)
		if same || err != nil {
			return same, err
		}
	}
	return false, nil
}

func equalTo(a, b reflect.Value) (bool, error) {
	a, b = inside(a), inside(b)
	if c, ok := order(a, b); ok {
		return c == 0, nil
	}
	switch {
	case isNil(a) || isNil(b):
		return isNil(a) == isNil(b), nil
	case isBasic(a) || isBasic(b):
		return false, errIncompatible
	case !a.Comparable() || !b.Comparable():
		return false, errors.New("non-comparable type " + a.Type().String() + " or " + b.Type().String())
	}
	return a.Type() == b.Type() && a.Equal(b), nil
}

func negate(v any, err error) (any, error) {
	b, _ := v.(bool)
	return !b, err
}

func compare(a []reflect.Value, want func(int) bool) (any, error) {
	x, y := inside(a[0]), inside(a[1])
	if c, ok := order(x, y); ok && x.Kind() != reflect.Bool && !x.CanComplex() {
		return want(c), nil
	}
	if isBasic(x) && isBasic(y) && x.Kind() != reflect.Bool && !x.CanComplex() {
		return nil, errIncompatible
	}
	return nil, errBasic
}

func isNil(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Chan, reflect.Func, reflect.Interface, reflect.Map, reflect.Pointer, reflect.Slice:
		return v.IsNil()
	}
	return false
}

// inside takes a value out of an interface.
func inside(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Interface {
		return v.Elem()
	}
	return v
}

func isNumber(v reflect.Value) bool {
	return v.CanInt() || v.CanUint() || v.CanFloat() || v.CanComplex()
}

func isBasic(v reflect.Value) bool {
	return isNumber(v) || v.Kind() == reflect.String || v.Kind() == reflect.Bool
}

// order compares values of one kind; integers with and without a sign are one.
func order(a, b reflect.Value) (c int, ok bool) {
	switch {
	case a.Kind() == reflect.String && b.Kind() == reflect.String:
		return cmp.Compare(a.String(), b.String()), true
	case a.Kind() == reflect.Bool && b.Kind() == reflect.Bool:
		if a.Bool() == b.Bool() {
			return 0, true
		}
		return 1, true
	case a.CanInt() && b.CanInt():
		return cmp.Compare(a.Int(), b.Int()), true
	case a.CanUint() && b.CanUint():
		return cmp.Compare(a.Uint(), b.Uint()), true
	case a.CanFloat() && b.CanFloat():
		return cmp.Compare(a.Float(), b.Float()), true
	case a.CanComplex() && b.CanComplex():
		if a.Complex() == b.Complex() {
			return 0, true
		}
		return 1, true
	case a.CanInt() && b.CanUint():
		if a.Int() < 0 {
			return -1, true
		}
		return cmp.Compare(uint64(a.Int()), b.Uint()), true
	case a.CanUint() && b.CanInt():
		c, _ = order(b, a)
		return -c, true
	}
	return 0, false
}
