// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	stepCount = 20 // steps that are measured in one build
	otherRuns = 5  // containers that the slow programs start per measurement
)

// The programs that start a container beside ours. crun 1.8 refuses hybrid
// cgroups, so it gets a mount namespace where they are of version 2 only.
const (
	buildahChroot = `for i in 1 2 3 4 5; do buildah run --isolation chroot bb /bin/true; done`
	buildahRunc   = `for i in 1 2 3 4 5; do buildah run --isolation rootless --runtime runc --network host bb /bin/true; done`
	crunRun       = `unshare -m sh -ec 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; ` +
		`for i in 1 2 3 4 5; do crun --root crun-state --cgroup-manager=disabled run -b bundle bench$i; done'`
)

// chain is a build file of one stage on the busybox archive and n more, each
// one step on top of the one before. Only the last one becomes an image.
func chain(n int) string {
	var b strings.Builder
	for i := range n + 1 {
		from := "{type: tar, url: bb.tar}"
		if i > 0 {
			from = fmt.Sprintf("{type: built, tag: s%d}", i-1)
		}
		fmt.Fprintf(&b, "s%d:\n  from: %s\n  run: |\n    #!/bin/true\n", i, from)
		if i < n {
			b.WriteString("  build_only: true\n")
		}
	}
	return b.String()
}

// benchSteps measures the start of a step, as a plain user.
func benchSteps(ctx context.Context, b *bench) error {
	a := b.area
	if err := prepareSteps(ctx, a); err != nil {
		return err
	}
	build := func(file string) (time.Duration, error) {
		if err := a.remove("state", "oci", ".stacker"); err != nil {
			return 0, err
		}
		r, err := a.run(ctx, a.user, "bin/stacker --state state --progress quiet build -f "+file)
		return r.took, err
	}
	rows := []row{
		{goal: goal{most: 0.005}, otherName: "buildah run, chroot", otherCmd: buildahChroot},
		{otherName: "buildah run, runc", otherCmd: buildahRunc},
		{otherName: "crun run, as root", otherCmd: crunRun},
	}
	for range b.runs {
		long, err := build("long.yaml")
		if err != nil {
			return err
		}
		short, err := build("short.yaml")
		if err != nil {
			return err
		}
		for i := range rows {
			u := a.user
			if rows[i].otherCmd == crunRun {
				u = nil
			}
			r, err := a.shell(ctx, u, rows[i].otherCmd)
			if err != nil {
				return err
			}
			rows[i].ours = append(rows[i].ours, (long-short).Seconds()/stepCount)
			rows[i].other = append(rows[i].other, r.took.Seconds()/otherRuns)
		}
	}
	for i := range rows {
		rows[i].name = "start of one step (`true` on busybox), plain user"
		rows[i].ourCommand = "bin/stacker --state state --progress quiet build -f long.yaml"
		rows[i].note = fmt.Sprintf("One step: a cold build of %d stages less a cold build of the first alone, divided by %d. Each step mounts, runs confined and is committed. "+
			"Beside it: the mean of %d containers on the same files, started one after the other, which are not committed.", stepCount+1, stepCount, otherRuns)
	}
	b.report.add(rows...)
	return nil
}

// prepareSteps makes the build files, a container of buildah's and a bundle of crun's.
func prepareSteps(ctx context.Context, a *area) error {
	if err := busyboxTar(a); err != nil {
		return err
	}
	for name, n := range map[string]int{"long.yaml": stepCount, "short.yaml": 0} {
		if err := a.write(name, chain(n)); err != nil {
			return err
		}
	}
	if _, err := a.shell(ctx, a.user, "buildah from --name bb scratch; buildah add bb bb.tar /"); err != nil {
		return err
	}
	if err := os.MkdirAll(a.path("bundle"), 0o755); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := a.write("bundle/config.json", bundle); err != nil {
		return err
	}
	_, err := a.shell(ctx, nil, "mkdir -p bundle/rootfs; tar -xf bb.tar -C bundle/rootfs")
	return err
}

// bundle is what `crun spec` makes, on the host's network as the steps of a build are.
const bundle = `{
  "ociVersion": "1.0.0",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true},
  "root": {"path": "rootfs"},
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
    "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
}`
