// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// helperTimeout bounds one call of a helper; some ask the user.
const helperTimeout = 60 * time.Second

// maxAnswer bounds what a helper may print, in bytes.
const maxAnswer = 1 << 20

// tokenUser is the user name with which a helper marks an identity token.
const tokenUser = "<token>"

// helperFunc asks the helper called name for the credentials of a server.
type helperFunc = func(ctx context.Context, name, server string) (Credentials, error)

// runHelper runs docker-credential-NAME get. A helper that does not know the server
// gives anonymous credentials.
func runHelper(ctx context.Context, name, server string) (Credentials, error) {
	program, stdout, err := execHelper(ctx, name, "get", server)
	if err != nil && noCredentials(stdout) {
		return Credentials{}, nil
	}
	if err != nil {
		return Credentials{}, err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || answer.Secret == "" {
		// What it printed may hold a secret.
		return Credentials{}, fmt.Errorf("credential helper %s: its answer is not JSON with a Secret", program)
	}
	if answer.Username == tokenUser {
		return Credentials{IdentityToken: answer.Secret}, nil
	}
	return Credentials{Username: answer.Username, Password: answer.Secret}, nil
}

// callHelper runs docker-credential-NAME with a verb that answers nothing. Input that
// is not a string is JSON.
func callHelper(ctx context.Context, name, verb string, input any) error {
	text, ok := input.(string)
	if !ok {
		data, err := json.Marshal(input)
		if err != nil {
			return err
		}
		text = string(data)
	}
	_, _, err := execHelper(ctx, name, verb, text)
	return err
}

// execHelper runs docker-credential-NAME.
func execHelper(ctx context.Context, name, verb, input string) (program, output string, err error) {
	program = "docker-credential-" + name
	if name == "" || strings.ContainsAny(name, "/\\\x00") {
		return program, "", fmt.Errorf("credential helper %q is not a name", name)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, verb)
	var stdout, stderr limitedBuffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	err = cmd.Run()
	output = stdout.buf.String()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		err = fmt.Errorf("credential helper %s is not installed: install it, or remove it from the file", program)
	case ctx.Err() != nil:
		err = fmt.Errorf("credential helper %s: %w", program, context.Cause(ctx))
	case stdout.full || stderr.full:
		err = fmt.Errorf("credential helper %s prints too much", program)
	case err != nil:
		err = fmt.Errorf("credential helper %s: %w: %.200q", program, err, strings.TrimSpace(output+stderr.buf.String()))
	}
	return program, output, err
}

// noCredentials recognises the answer of a helper that has nothing for a server,
// which the protocol gives as an error with one of these texts.
func noCredentials(output string) bool {
	output = strings.ToLower(strings.TrimSpace(output))
	return output == "credentials not found in native keychain" ||
		output == "no credentials server url" || output == "no credentials username"
}

// limitedBuffer refuses to grow beyond maxAnswer. The buffer is not embedded: its
// ReadFrom would pass the limit by.
type limitedBuffer struct {
	buf  bytes.Buffer
	full bool
}

// Write fails when the buffer would grow too large, which ends the helper.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxAnswer {
		b.full = true
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
