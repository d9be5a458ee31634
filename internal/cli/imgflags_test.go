// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// buildFlags are the flags of docker build, docker buildx build 0.38, img build 0.5.11 and
// buildah build 1.44. Each has a line in script dockerfile-flags-others, among those that
// are honoured or those that are refused by name.
const buildFlags = `
--add-host --allow --annotation --attest --build-arg --build-context --builder --cache-from --cache-to --call --cgroup-parent --check -D
--debug -f --file --iidfile --label --load --metadata-file --network --no-cache --no-cache-filter -o --output --platform --policy
--progress --provenance --pull --push -q --quiet --resource --sbom --secret --shm-size --ssh -t --tag --target --ulimit
--rm --force-rm --squash --isolation --memory --memory-swap --cpu-period --cpu-quota --cpu-shares --cpuset-cpus --cpuset-mems --compress
--security-opt --no-console
--layers --jobs --volume --mount --env --from --ignorefile --build-arg-file --cap-add --cap-drop --device --dns --dns-option --dns-search
--hooks-dir --manifest --retry --retry-delay --unsetenv --unsetlabel --unsetannotation --layer-label --inherit-labels --inherit-annotations
--identity-label --omit-history --created-annotation --cpp-flag --cw --sbom-image-output --sbom-merge-strategy --sbom-output
--sbom-purl-output --sbom-scanner-command --sbom-scanner-image --source-date-epoch --timestamp --rewrite-timestamp --source-policy-file
--save-stages --stage-labels --cache-ttl --iidfile-raw --sign-by --decryption-key --compression-format --compression-level
`

func TestBuildFlags(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "script", "dockerfile-flags-others.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range strings.Fields(buildFlags) {
		if !regexp.MustCompile(`(?m)^` + flag + `([ =]|$)`).Match(data) {
			t.Errorf("%s is in neither list of script dockerfile-flags-others", flag)
		}
	}
}

// imgCommands are the commands of img with their flags (img v0.5.11), and what docker's
// users know beside them.
var imgCommands = map[string]string{
	"build": "-f -t --tag --target --platform --build-arg --label --secret --ssh --no-cache -o --output --cache-from --cache-to",
	"ls":    "-f --filter --format --json -q", "images": "-f --filter", "du": "-f --filter", "prune": "-a --all --keep-storage --filter",
	"pull": "", "push": "--insecure-registry", "tag": "", "rm": "", "rmi": "", "save": "-o --output --format", "load": "-i --input",
	"import": "", "unpack": "-o --output", "inspect": "", "history": "", "login": "-u -p --password-stdin", "logout": "", "version": "",
}

// imgGlobal are flags of all of them.
const imgGlobal = "-b --backend --debug --state -h --help"

func TestImgCommands(t *testing.T) {
	stacker := filepath.Join(os.Getenv(homeVariable), "bin", "stacker")
	for name, flags := range imgCommands {
		out, err := exec.Command(stacker, name, "--help").CombinedOutput()
		if err != nil {
			t.Errorf("stacker %s --help: %v\n%s", name, err, out)
		}
		for _, f := range strings.Fields(flags + " " + imgGlobal) {
			if !regexp.MustCompile(`(?m)^ +(-\w, )?` + f + `\b`).Match(out) {
				t.Errorf("stacker %s has no flag %s", name, f)
			}
		}
	}
	state := filepath.Join(t.TempDir(), "state")
	if out, err := exec.Command(stacker, "-d", "ls", "-s", state).CombinedOutput(); err != nil {
		t.Errorf("stacker -d ls -s DIRECTORY: %v\n%s", err, out)
	}
	if _, err := os.Stat(state); err != nil {
		t.Error(err)
	}
}
