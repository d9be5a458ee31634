// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxErrorBody bounds how much of an error's body is read, in bytes.
const maxErrorBody = 64 << 10

// maxMessage bounds how much of it is shown, in bytes.
const maxMessage = 500

// Error is an answer of a registry that is not the one that was hoped for. It is
// ErrNotFound for 404 and ErrUnauthorized for 401 and 403.
type Error struct {
	Registry string
	Request  string // method and path
	Status   int
	Code     string // the registry's, such as MANIFEST_UNKNOWN; may be empty
	Message  string // the registry's, made safe to print; may be empty
	// After is how long it asks to wait (Retry-After); zero where it does not.
	After time.Duration
}

// Error returns what was asked, what was answered and, where it is known, what to do.
func (e *Error) Error() string {
	s := fmt.Sprintf("registry %s: %s: %s", e.Registry, e.Request, e.Answer())
	switch e.Status {
	case http.StatusUnauthorized:
		s += " (log in to " + e.Registry + ", or check that the name is right)"
	case http.StatusForbidden:
		s += " (these credentials do not allow that)"
	case http.StatusTooManyRequests:
		s += " (logging in usually raises the limit)"
	}
	return s
}

// Answer returns the status and what the registry said to it.
func (e *Error) Answer() string {
	s := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is makes errors.Is recognise the sentinels of the package.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	}
	return false
}

// statusError turns a response into an error and closes it.
func statusError(resp *http.Response, registry string) error {
	defer discard(resp)
	e := &Error{Registry: registry, Request: resp.Request.Method + " " + resp.Request.URL.Path, Status: resp.StatusCode}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return e // the status says enough
	}
	var body struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
		Details string `json:"details"` // of token services
	}
	switch err := json.Unmarshal(data, &body); {
	case err == nil && len(body.Errors) > 0:
		e.Code, e.Message = printable(body.Errors[0].Code), printable(body.Errors[0].Message)
	case err == nil && body.Details != "":
		e.Message = printable(body.Details)
	case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain"):
		e.Message = printable(strings.TrimSpace(string(data)))
	}
	return e
}

// printable makes a text from outside safe for a terminal and short.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= maxMessage {
			b.WriteString("…")
			break
		}
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}
