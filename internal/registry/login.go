// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"

	"build.stacker.dev/internal/reference"
)

// Ping asks a registry whether it speaks the protocol and takes the credentials that
// the client has for it.
func (c *Client) Ping(ctx context.Context, registry string) error {
	if !reference.ValidRegistry(registry) {
		return fmt.Errorf("registry %q is not a host or host:port", registry)
	}
	h, err := c.hostOf(registry)
	if err != nil {
		return fmt.Errorf("registry %s: %w", registry, err)
	}
	r := &repository{client: c, host: h, ref: reference.Reference{Registry: registry}, attempts: maxAttempts}
	resp, err := r.do(ctx, &request{method: http.MethodGet})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return statusError(resp, h.name)
	}
	discard(resp)
	return nil
}
