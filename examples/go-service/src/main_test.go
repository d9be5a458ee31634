// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net"
	"testing"
)

func TestServe(t *testing.T) {
	here, there := net.Pipe()
	go serve(there)
	answers := bufio.NewScanner(here)
	for question, want := range map[string]string{"version": "service unknown", "health": "ok", "": "unknown question"} {
		fmt.Fprintln(here, question)
		if !answers.Scan() || answers.Text() != want {
			t.Errorf("the answer to %q is %q, want %q", question, answers.Text(), want)
		}
	}
}
