// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"math"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
	}{
		{0, "0 B"}, {999, "999 B"}, {1000, "1.0 kB"}, {1234567, "1.2 MB"}, {9_949_999, "9.9 MB"},
		{9_950_000, "10 MB"}, {82_854_982, "83 MB"}, {999_499, "999 kB"}, {999_500, "1.0 MB"},
		{math.MaxInt64, "9.2 EB"}, {-1500, "-1.5 kB"}, {math.MinInt64, "-9.2 EB"},
	} {
		if got := Bytes(c.n); got != c.want {
			t.Errorf("Bytes(%d) = %q, want %q", c.n, got, c.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0.0s"}, {0, "0.0s"}, {49 * time.Millisecond, "0.0s"}, {1234 * time.Millisecond, "1.2s"},
		{59949 * time.Millisecond, "59.9s"}, {59950 * time.Millisecond, "1m00s"}, {65 * time.Second, "1m05s"},
		{time.Hour - time.Millisecond, "1h00m"}, {2*time.Hour + 3*time.Minute, "2h03m"},
		{24*time.Hour - time.Second, "1d00h"}, {76 * time.Hour, "3d04h"},
	} {
		if got := Duration(c.d); got != c.want {
			t.Errorf("Duration(%d) = %q, want %q", c.d, got, c.want)
		}
	}
}
