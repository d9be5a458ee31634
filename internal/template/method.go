// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package template

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// method calls one of the methods that templates can call: those that say something
// else about a time or a digest, and String of everything. False: v has none of that
// name.
func method(v any, name string, args []any) (out any, ok bool, err error) {
	switch x := v.(type) {
	case *time.Time:
		if x == nil {
			return nil, false, nil
		}
		return timeMethod(*x, name, args)
	case time.Time:
		return timeMethod(x, name, args)
	case digest.Digest:
		switch name {
		case "Algorithm":
			out, ok = x.Algorithm(), true
		case "Encoded", "Hex":
			out, ok = x.Encoded(), true
		}
	}
	if s, is := v.(fmt.Stringer); is && name == "String" {
		out, ok = s.String(), true
	}
	if ok && len(args) > 0 {
		err = fmt.Errorf("wrong number of args for %s: want 0 got %d", name, len(args))
	}
	return out, ok, err
}

func timeMethod(t time.Time, name string, args []any) (out any, ok bool, err error) {
	if name == "Format" {
		layout, is := "", false
		if len(args) == 1 {
			layout, is = args[0].(string)
		}
		if !is {
			return nil, true, fmt.Errorf("Format wants one text, such as %q", time.DateTime)
		}
		return t.Format(layout), true, nil
	}
	ok = true
	switch name {
	case "String":
		out = t.String()
	case "Unix":
		out = t.Unix()
	case "UnixMilli":
		out = t.UnixMilli()
	case "UnixNano":
		out = t.UnixNano()
	case "UTC":
		out = t.UTC()
	case "Local":
		out = t.Local()
	case "Year":
		out = t.Year()
	case "Month":
		out = t.Month()
	case "Day":
		out = t.Day()
	case "Hour":
		out = t.Hour()
	case "Minute":
		out = t.Minute()
	case "Second":
		out = t.Second()
	case "Weekday":
		out = t.Weekday()
	case "IsZero":
		out = t.IsZero()
	default:
		return nil, false, nil
	}
	if len(args) > 0 {
		err = fmt.Errorf("wrong number of args for %s: want 0 got %d", name, len(args))
	}
	return out, ok, err
}
