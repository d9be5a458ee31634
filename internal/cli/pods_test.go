// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"build.stacker.dev/internal/shell"
)

// job is a manifest of examples/kubernetes, as far as the container's rights go. The rest is Any.
type job struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   any
	Spec       struct {
		BackoffLimit int `yaml:"backoffLimit"`
		Template     struct {
			Spec struct {
				RestartPolicy                string `yaml:"restartPolicy"`
				AutomountServiceAccountToken bool   `yaml:"automountServiceAccountToken"`
				HostUsers                    *bool  `yaml:"hostUsers"`
				Containers                   []struct {
					Name, Image     string
					Args            []string
					WorkingDir      string          `yaml:"workingDir"`
					SecurityContext securityContext `yaml:"securityContext"`
					Resources       any
					VolumeMounts    any `yaml:"volumeMounts"`
				}
				Volumes any
			}
		}
	}
}

type securityContext struct {
	RunAsUser                int    `yaml:"runAsUser"`
	RunAsGroup               int    `yaml:"runAsGroup"`
	RunAsNonRoot             bool   `yaml:"runAsNonRoot"`
	AllowPrivilegeEscalation *bool  `yaml:"allowPrivilegeEscalation"`
	ProcMount                string `yaml:"procMount"`
	Capabilities             struct{ Add, Drop []string }
	SeccompProfile           struct {
		Type             string
		LocalhostProfile string `yaml:"localhostProfile"`
	} `yaml:"seccompProfile"`
}

// box is what a runtime makes of the manifest.
func (j job) box(t *testing.T) box {
	t.Helper()
	pod := j.Spec.Template.Spec
	c := pod.Containers[0].SecurityContext
	b := box{
		userns: pod.HostUsers != nil && !*pod.HostUsers, uid: c.RunAsUser, caps: dockerCaps, unmasked: c.ProcMount == "Unmasked",
		noNew: c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation,
	}
	if slices.Contains(c.Capabilities.Drop, "ALL") {
		b.caps = nil
	}
	b.caps = append(slices.Clone(b.caps), c.Capabilities.Add...)
	switch c.SeccompProfile.Type {
	case "":
	case "Localhost":
		b.seccomp = exampleSeccomp(t)
	case "RuntimeDefault":
		b.seccomp = dockerSeccomp(t, b.caps)
	default:
		t.Fatalf("seccomp profile %q", c.SeccompProfile.Type)
	}
	return b
}

// restricted tells whether the Pod Security Standard "restricted" admits the manifest's containers
// (kubernetes.io/docs/concepts/security/pod-security-standards).
func (j job) restricted() bool {
	for _, c := range j.Spec.Template.Spec.Containers {
		s := c.SecurityContext
		escalates := s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation
		adds := slices.ContainsFunc(s.Capabilities.Add, func(c string) bool { return c != "NET_BIND_SERVICE" })
		confined := s.SeccompProfile.Type == "RuntimeDefault" || s.SeccompProfile.Type == "Localhost"
		if !s.RunAsNonRoot || s.RunAsUser == 0 || escalates || !slices.Contains(s.Capabilities.Drop, "ALL") || adds || !confined || s.ProcMount != "" {
			return false
		}
	}
	return true
}

// exampleSeccomp is examples/kubernetes/seccomp.json in the form of the runtime specification.
func exampleSeccomp(t *testing.T) object {
	t.Helper()
	data, err := os.ReadFile("../../examples/kubernetes/seccomp.json")
	if err != nil {
		t.Fatal(err)
	}
	p := object{}
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	delete(p, "archMap") // the runtime's caller chooses: here, this machine's own
	return p
}

// TestImageTools wants the Dockerfile of the image of stacker to make a link for each utility that there is, as its
// stacker.yaml does.
func TestImageTools(t *testing.T) {
	data, err := os.ReadFile("../../examples/stacker-image/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "for name in ")
	list, _, _ := strings.Cut(rest, ";")
	if got, want := strings.Fields(strings.ReplaceAll(list, "\\\n", " ")), shell.Names(); !slices.Equal(got, want) {
		t.Errorf("the Dockerfile has\n%q\nwant\n%q", got, want)
	}
}

// TestPods runs the jobs of examples/kubernetes in containers with the rights that the manifests
// ask for.
func TestPods(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "only root can make every kind of container")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		need(t, "install runc")
	}
	files, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	image := stackerImage(t, "Dockerfile")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var j job
		var config struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string
			Metadata   any
			Data       map[string]string
		}
		d := yaml.NewDecoder(bytes.NewReader(data))
		d.KnownFields(true)
		if err := d.Decode(&j); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if err := d.Decode(&config); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if strings.HasPrefix(filepath.Base(f), "restricted") && !j.restricted() {
			t.Errorf("%s: the Pod Security Standard \"restricted\" does not admit it", f)
		}
		boxes := map[string]box{"": j.box(t)}
		if masked := boxes[""]; masked.unmasked {
			masked.unmasked = false
			boxes["-masked"] = masked
		}
		for name, b := range boxes {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".yaml")+name, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "stacker.yaml"), []byte(config.Data["stacker.yaml"]), 0o644); err != nil {
					t.Fatal(err)
				}
				out, err := boxed(t, image, b, dir, j.Spec.Template.Spec.Containers[0].Args...)
				if err != nil || !strings.Contains(out, "filesystem hello built successfully") {
					t.Fatalf("build: %v\n%s", err, out)
				}
				says := "/proc of steps is that of the container around"
				if c := j.Spec.Template.Spec.Containers[0].SecurityContext; c.SeccompProfile.Type == "RuntimeDefault" && c.RunAsUser == 0 {
					says = "level chroot: steps are less apart"
				} else if c.SeccompProfile.Type == "RuntimeDefault" {
					says = "level vroot: steps are less apart"
				}
				if told := strings.Contains(out, says); told == b.unmasked {
					t.Errorf("/proc is unmasked: %t, but the build says\n%s", b.unmasked, out)
				}
			})
		}
	}
}
