// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// inspected are the Dockerfiles whose images are shown to podman and skopeo, too:
// those that are about the config.
var inspected = regexp.MustCompile(`^(all|cmd|entrypoint|env|expose|from-scratch|healthcheck|label|maintainer|onbuild|shell|stopsignal|user|volume|workdir)`)

// inspect compares what podman inspect and skopeo inspect --config say about the two
// images of a case: ours as a docker archive, which is what --load gives to podman.
// podman is the beginning of its command line.
func inspect(t *testing.T, c dockerCase, podman []string) {
	t.Helper()
	ours, theirs := "docker-archive:"+filepath.Join(c.dir, "ours.tar"), "dir:"+filepath.Join(c.dir, "theirs")
	config := func(image string) []string {
		t.Helper()
		lines, err := describeConfig(output(t, "skopeo", "inspect", "--config", image))
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	unexplained(t, c, config(theirs), config(ours))
	shown := func(image string) []string {
		t.Helper()
		id := strings.TrimSpace(string(output(t, "podman", append(slices.Clone(podman), "pull", "--quiet", image)...)))
		return describeInspect(t, output(t, "podman", append(slices.Clone(podman), "inspect", id)...))
	}
	unexplained(t, c, shown(theirs), shown(ours))
}

// output is the standard output of a command.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		text := ""
		if e, ok := err.(*exec.ExitError); ok {
			text = string(e.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, text)
	}
	return out
}

// describeInspect gives a line for each field of what podman says about an image,
// but for names, times, sizes, digests, and what describeConfig has: the history.
func describeInspect(t *testing.T, text []byte) []string {
	t.Helper()
	var all []map[string]any
	if err := json.Unmarshal(text, &all); err != nil || len(all) != 1 {
		t.Fatalf("podman inspect: %v, %d images", err, len(all))
	}
	image := all[0]
	for _, k := range []string{
		"Id", "Digest", "RepoTags", "RepoDigests", "NamesHistory", "Parent", "Created", "Size", "VirtualSize", "GraphDriver", "RootFS",
		"History", "Comment", // the last entry's: docker writes "buildkit.dockerfile.v0"
	} {
		delete(image, k)
	}
	config := image["Config"]
	delete(image, "Config")
	return append(flatten("podman", image), flatten("config.config", config)...)
}
