// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is an image's config: OCI's members, and those of Docker that OCI has not.
type Config struct {
	Created *time.Time `json:"created,omitempty"`
	Author  string     `json:"author,omitempty"`
	ocispec.Platform
	Config  RunConfig         `json:"config"`
	RootFS  ocispec.RootFS    `json:"rootfs"`
	History []ocispec.History `json:"history,omitempty"`
}

// RunConfig is how a container of the image is run.
type RunConfig struct {
	ocispec.ImageConfig
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
}

// Healthcheck is Docker's check of a running container. Durations are nanoseconds.
type Healthcheck struct {
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// configKeys are the members of a config that this package reads.
const configKeys = "created author architecture os os.version os.features variant config rootfs history " +
	"type diff_ids created_by comment empty_layer " +
	"User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal ArgsEscaped " +
	"Healthcheck OnBuild Shell Test Interval Timeout StartPeriod StartInterval Retries"

// ParseConfig parses and checks an image's config. Members that Config does not
// have are ignored.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	if len(data) > MaxConfigSize {
		return c, fmt.Errorf("parse config: it has %d bytes, more than %d", len(data), MaxConfigSize)
	}
	keys, err := checkKeys(data, newShape(configKeys))
	if err != nil {
		return c, fmt.Errorf("parse config: %w", err)
	}
	if !keys["rootfs"] {
		return c, errors.New("parse config: it has no rootfs: not the config of an image")
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("parse config: %w", err)
	}
	if c.RootFS.Type != "layers" {
		return c, fmt.Errorf("parse config: rootfs type is %s, want \"layers\"", quote(c.RootFS.Type))
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := CheckDigest(d); err != nil {
			return c, fmt.Errorf("parse config: diffID %d: %w", i, err)
		}
	}
	return c, nil
}

// CheckLayers returns an error unless the config has one diffID per layer of the
// manifest. A history of another length is no error: some builders write that.
func CheckLayers(m ocispec.Manifest, c Config) error {
	if len(m.Layers) != len(c.RootFS.DiffIDs) {
		return fmt.Errorf("manifest has %d layers, its config has %d diffIDs", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	return nil
}
