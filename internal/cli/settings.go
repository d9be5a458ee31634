// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/userns"
)

// progressModes are the values of --progress.
var progressModes = []string{"auto", "tty", "plain", "rawjson", "quiet", "none"}

// storageTypes are the values of --storage-type, the default first.
var storageTypes = []string{snapshot.Auto, snapshot.Overlay, snapshot.Btrfs, snapshot.Native, snapshot.Fuse}

// settings are the global flags, completed from the config file and the environment.
type settings struct {
	workDir, stackerDir, ociDir, rootsDir string
	stateDir, config                      string
	level                                 string
	debug, quiet                          bool
	logFile                               string
	logTimestamp                          bool
	storageType                           string
	progress                              string
	noProgress                            bool
	stackerDirGiven, rootsDirGiven        bool

	sourceEpoch *time.Time // SOURCE_DATE_EPOCH
	warning     string     // to be told before the command runs
}

func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.workDir, "work-dir", "", "parent of the default stacker, oci and roots directories")
	f.StringVar(&s.stackerDir, "stacker-dir", ".stacker", "directory for imports that people look at")
	f.StringVar(&s.ociDir, "oci-dir", "oci", "OCI layout that receives the images")
	f.StringVar(&s.rootsDir, "roots-dir", "roots", "kept for compatibility: root file systems live in the state directory")
	f.StringVar(&s.stateDir, "state", "", "state directory (default $XDG_DATA_HOME/stacker, as root /var/lib/stacker)")
	f.StringVar(&s.config, "config", "", "config file (default $XDG_CONFIG_HOME/stacker/conf.yaml)")
	f.BoolVarP(&s.debug, "debug", "D", false, "say more")
	f.BoolVarP(&s.quiet, "quiet", "q", false, "print errors only")
	f.StringVar(&s.logFile, "log-file", "", "write messages to this file instead of stderr")
	f.BoolVar(&s.logTimestamp, "log-timestamp", false, "begin messages with the time")
	f.StringVar(&s.storageType, "storage-type", storageTypes[0], "how root file systems are kept: "+strings.Join(storageTypes, ", "))
	f.StringVarP(&s.storageType, "backend", "b", storageTypes[0], "same as --storage-type")
	f.StringVar(&s.level, "level", "", "how steps are kept apart and get their user ids: root, subid, single, chroot or vroot (default the best that there is)")
	f.StringVar(&s.progress, "progress", "auto", "how progress is shown: "+strings.Join(progressModes, ", "))
	f.Lookup("progress").NoOptDefVal = "auto"
	f.BoolVar(&s.noProgress, "no-progress", false, "show progress as plain lines")
}

// configFile is the config file's content.
type configFile struct {
	WorkDir    string `yaml:"work_dir"`
	StackerDir string `yaml:"stacker_dir"`
	OCIDir     string `yaml:"oci_dir"`
	RootsDir   string `yaml:"rootfs_dir"`
}

// complete decides on every directory: explicit flag, then config file, then
// work-dir with the default, then the default.
func (s *settings) complete(cmd *cobra.Command) error {
	if s.debug && s.quiet {
		return errors.New("debug and quiet don't make sense together")
	}
	if s.storageType == "overlayfs" {
		s.storageType = snapshot.Overlay
	}
	if !slices.Contains(storageTypes, s.storageType) {
		return fmt.Errorf("unknown storage type %s: there are %s", s.storageType, strings.Join(storageTypes, ", "))
	}
	if s.level != "" && !slices.Contains(userns.Levels(), userns.Level(s.level)) {
		return fmt.Errorf("--level %s: there are %s", s.level, userns.LevelNames())
	}
	if err := s.epoch(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	c, err := s.readConfig()
	if err != nil {
		return err
	}
	changed := func(name string) bool { return cmd.Flags().Changed(name) }
	if !changed("work-dir") && c.WorkDir != "" {
		s.workDir = c.WorkDir
	}
	for _, d := range []struct {
		flag, config string
		to           *string
	}{
		{"stacker-dir", c.StackerDir, &s.stackerDir}, {"oci-dir", c.OCIDir, &s.ociDir}, {"roots-dir", c.RootsDir, &s.rootsDir},
	} {
		switch {
		case changed(d.flag):
		case d.config != "":
			*d.to = d.config
		case s.workDir != "":
			*d.to = filepath.Join(s.workDir, *d.to)
		}
		if *d.to, err = filepath.Abs(*d.to); err != nil {
			return fmt.Errorf("find %s: %w", d.flag, err)
		}
	}
	s.stackerDirGiven = changed("stacker-dir") || c.StackerDir != ""
	s.rootsDirGiven = changed("roots-dir") || c.RootsDir != ""
	if strings.Contains(s.rootsDir, ":") {
		return fmt.Errorf("using ':' in the name of --roots-dir (%s) is forbidden due to overlay constraints", s.rootsDir)
	}
	return s.completeState()
}

func (s *settings) epoch(v string) error {
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return fmt.Errorf("invalid SOURCE_DATE_EPOCH value %q: %w: give seconds since 1970", v, err)
	}
	t := time.Unix(n, 0).UTC()
	// RFC 3339, which image configs use, ends at year 9999; tar begins at 1970.
	if t.Year() > 9999 || n < 0 {
		return fmt.Errorf("invalid SOURCE_DATE_EPOCH value %q: it must be between 1970 and 9999", v)
	}
	s.sourceEpoch = &t
	return nil
}

func (s *settings) readConfig() (configFile, error) {
	var c configFile
	path := s.config
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return c, nil // no HOME: no config file
		}
		path = filepath.Join(dir, "stacker", "conf.yaml")
		if _, err := os.Stat(path); err != nil && os.Getenv("XDG_CONFIG_HOME") != "" {
			path = filepath.Join(dir, "conf.yaml") // where earlier versions looked
		}
	}
	data, err := os.ReadFile(path)
	if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) && s.config == "" {
		return c, nil // none, or one of another user: HOME may be kept by sudo
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		// Earlier versions said nothing, and scripts name files that need not be.
		s.warning = fmt.Sprintf("read config file: %v: going on without it", err)
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read config file: %w", err)
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read config file %s: %w", path, err)
	}
	return c, nil
}

// completeState finds the state directory: one per user.
func (s *settings) completeState() (err error) {
	switch {
	case s.stateDir != "":
	case os.Getenv("XDG_DATA_HOME") != "":
		s.stateDir = filepath.Join(os.Getenv("XDG_DATA_HOME"), "stacker")
	case os.Geteuid() == 0:
		s.stateDir = "/var/lib/stacker"
	default:
		home, herr := os.UserHomeDir()
		if herr != nil {
			return errors.New("no place for the state directory: set HOME or XDG_DATA_HOME, or give --state DIRECTORY")
		}
		s.stateDir = filepath.Join(home, ".local", "share", "stacker")
	}
	s.stateDir, err = filepath.Abs(s.stateDir)
	return err
}
