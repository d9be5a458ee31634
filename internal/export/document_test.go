// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// TestImageError wants an image's own errors to name it, and those of others not to.
func TestImageError(t *testing.T) {
	own, others := errors.New("disk full"), errors.New("run failed")
	ended, end := context.WithCancelCause(context.Background())
	end(others)
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{context.Background(), own, "export image one: disk full"},
		{ended, own, "export image one: disk full"},
		{ended, fmt.Errorf("write blob: %w", others), "run failed"},
	} {
		if got := imageError(tc.ctx, Product{Name: "one"}, tc.err).Error(); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.err, got, tc.want)
		}
	}
}
