// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the files that are compared")

// podProfile is the profile of a container in which stacker runs, in the form that docker,
// containerd and CRI-O read. See TestPodProfile.
type podProfile struct {
	DefaultAction   string    `json:"defaultAction"`
	DefaultErrnoRet int       `json:"defaultErrnoRet"`
	ArchMap         []podArch `json:"archMap"`
	Syscalls        []podRule `json:"syscalls"`
}

type podArch struct {
	Architecture     string   `json:"architecture"`
	SubArchitectures []string `json:"subArchitectures"`
}

type podRule struct {
	Names    []string `json:"names"`
	Action   string   `json:"action"`
	ErrnoRet *int     `json:"errnoRet,omitempty"`
}

// TestPodProfile compares examples/kubernetes/seccomp.json, with which a pod may build, with the
// table here: it allows what a step may do, and to make namespaces and mounts, which the kernel
// allows inside a user namespace only. The filter of a step comes on top of it.
func TestPodProfile(t *testing.T) {
	rows, err := parseProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	var allow, deny []string
	for _, r := range rows {
		switch r.rule {
		case "enosys":
		case "allow", "nest", "clone", "clone3", "socket", "socketcall", "personality", "ioctl", "SYS_CHROOT":
			allow = append(allow, r.name)
		default:
			deny = append(deny, r.name)
		}
	}
	slices.Sort(allow)
	slices.Sort(deny)
	eperm := 1
	p := podProfile{
		DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: 38, // ENOSYS
		ArchMap: []podArch{
			{"SCMP_ARCH_X86_64", []string{"SCMP_ARCH_X86", "SCMP_ARCH_X32"}},
			{"SCMP_ARCH_AARCH64", []string{"SCMP_ARCH_ARM"}},
		},
		Syscalls: []podRule{
			{Names: slices.Compact(allow), Action: "SCMP_ACT_ALLOW"},
			{Names: slices.Compact(deny), Action: "SCMP_ACT_ERRNO", ErrnoRet: &eperm},
		},
	}
	var want strings.Builder
	e := json.NewEncoder(&want)
	e.SetIndent("", "\t")
	if err := e.Encode(p); err != nil {
		t.Fatal(err)
	}
	const file = "../../examples/kubernetes/seccomp.json"
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("%s does not follow the profile: go test -run TestPodProfile ./internal/seccomp -update", file)
	}
}
