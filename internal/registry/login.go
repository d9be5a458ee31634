// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
)

// Ping asks a registry whether it speaks the protocol and takes the credentials that
// the client has for it, or for what is below a repository of it; that may be empty.
func (c *Client) Ping(ctx context.Context, registry, below string) error {
	if !reference.ValidRegistry(registry) {
		return fmt.Errorf("registry %q is not a host or host:port", registry)
	}
	p, err := c.placeOf(registry, below)
	if err != nil {
		return err
	}
	h, err := c.hostFor(p)
	if err != nil {
		return fmt.Errorf("registry %s: %w", registry, err)
	}
	r := &repository{client: c, host: h, ref: reference.Reference{Registry: registry}, attempts: c.opts.Attempts, patience: maxRetryAfter}
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

// placeOf returns how a registry itself is spoken to.
func (c *Client) placeOf(registry, below string) (hosts.Place, error) {
	own := hosts.Place{Registry: registry}
	if c.opts.Places == nil {
		return own, nil
	}
	if below == "" {
		below = "any" // what is said of a registry is said of its repositories
	}
	list, err := c.opts.Places(reference.Reference{Registry: registry, Repository: below})
	if err != nil {
		return own, err
	}
	if last := list[len(list)-1]; last.Registry == registry {
		return last, nil
	}
	return own, nil // what is elsewhere has credentials of its own
}
