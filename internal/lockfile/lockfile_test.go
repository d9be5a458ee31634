// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	one, err := Try(path, true)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Try(path, true)
	if err != nil {
		t.Fatalf("second shared lock: %v", err)
	}
	if got := Owner(path); got != os.Getpid() {
		t.Errorf("Owner = %d, want %d", got, os.Getpid())
	}
	if _, err := Try(path, false); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("exclusive lock beside shared ones: got %v, want EWOULDBLOCK", err)
	}
	one()
	two()
	if got := Owner(path); got != 0 {
		t.Errorf("Owner of a free lock = %d, want 0", got)
	}
	three, err := Try(path, false)
	if err != nil {
		t.Fatalf("exclusive lock of a free file: %v", err)
	}
	defer three()
	if _, err := Try(path, true); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("shared lock beside an exclusive one: got %v, want EWOULDBLOCK", err)
	}
}
