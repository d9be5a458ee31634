// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"fmt"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/bom/scan"
)

// scan writes what a stack of trees holds. It goes to a file, since a message has
// a limit and an image may have a million files.
func (s *server) scan(ctx context.Context, c *call, r ScanRequest) error {
	out, err := c.file(0)
	if err != nil {
		return err
	}
	var found bom.Inventory
	if len(r.Lower) > 0 {
		root, err := s.view(r.Lower)
		if err != nil {
			return err
		}
		defer root.Close()
		if found, err = scan.Scan(ctx, root); err != nil {
			return err
		}
	}
	if err := json.NewEncoder(out).Encode(found); err != nil {
		return fmt.Errorf("write inventory: %w", err)
	}
	return nil
}
