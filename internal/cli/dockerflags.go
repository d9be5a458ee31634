// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// dockerOptions are the flags of Dockerfile builds.
type dockerOptions struct {
	buildArgs     []string
	buildArgFiles []string
	contexts      []string
	labels        []string
	platforms     []string
	noCacheFilter []string
	addHosts      []string
	shmSize       string
	ulimits       []string
	secrets       []string
	ssh           []string
	allow         []string
	call          string
	check         bool
	attributes    []string
	llb           string
	pull          string
	ignoreFile    string
	epoch         string
	jobs          int
	refused       map[string]*[]string
}

func (o *dockerOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.buildArgs, "build-arg", nil, "NAME=VALUE for ARG of a Dockerfile; NAME alone takes the environment's (may be repeated)")
	f.StringArrayVar(&o.buildArgFiles, "build-arg-file", nil, "file of NAME=VALUE lines for ARG (may be repeated)")
	f.StringArrayVar(&o.contexts, "build-context", nil, "NAME=DIRECTORY|URL|docker-image://IMAGE|oci-layout://DIRECTORY:TAG for FROM and --from (may be repeated)")
	f.StringArrayVar(&o.labels, "label", nil, "KEY=VALUE for the image (may be repeated)")
	f.StringSliceVar(&o.platforms, "platform", nil, "OS/ARCHITECTURE to build for (may be repeated)")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "stages whose results are not to be reused")
	f.StringSliceVar(&o.addHosts, "add-host", nil, "NAME:ADDRESS for /etc/hosts of steps (may be repeated)")
	f.StringVar(&o.shmSize, "shm-size", "", "size of /dev/shm in steps, as 64m")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "TYPE=SOFT[:HARD] limit of steps (may be repeated)")
	f.StringArrayVar(&o.secrets, "secret", nil, "id=ID[,src=FILE|,env=NAME] that steps may see (may be repeated)")
	f.StringArrayVar(&o.ssh, "ssh", nil, "default|ID[=SOCKET|=KEY[,KEY]] that steps may use (may be repeated)")
	f.StringSliceVar(&o.allow, "allow", nil, "what steps may ask for: network.host, security.insecure")
	f.StringVar(&o.call, "call", "build", "what to do: build, check, outline, targets; \",format=json\" behind it")
	f.BoolVar(&o.check, "check", false, "the same as --call check")
	f.StringArrayVar(&o.attributes, "opt", nil, "KEY=VALUE attribute of the Dockerfile frontend (may be repeated)")
	f.StringVar(&o.llb, "llb", "", "build an LLB definition: a file, or - for the standard input")
	f.StringVar(&o.pull, "pull", "", "ask the registry for base images")
	f.Lookup("pull").NoOptDefVal = "true"
	f.StringVar(&o.ignoreFile, "ignorefile", "", "in place of .dockerignore")
	f.StringVar(&o.epoch, "source-date-epoch", "", "SOURCE_DATE_EPOCH of the build")
	f.IntVar(&o.jobs, "jobs", 0, "how many steps run at the same time (default: twice the processors, at least four)")
	o.refusedFlags(f)
}

// frontendAttributes gives the attributes of BuildKit's Dockerfile frontend.
func (o *dockerOptions) frontendAttributes(shared buildOptions) (map[string]string, error) {
	out := map[string]string{}
	if err := o.arguments(out); err != nil {
		return nil, err
	}
	for _, l := range o.labels {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return nil, fmt.Errorf("--label %s: write KEY=VALUE", l)
		}
		out["label:"+k] = v
	}
	if len(o.platforms) > 0 {
		out["platform"] = strings.Join(o.platforms, ",")
	}
	if len(shared.targets) > 1 {
		return nil, errors.New("--target: a Dockerfile build has one target")
	}
	if len(shared.targets) == 1 {
		out["target"] = shared.targets[0]
	}
	if shared.noCache {
		out["no-cache"] = ""
	} else if len(o.noCacheFilter) > 0 {
		out["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	switch shared.network {
	case "none":
		out["force-network-mode"] = "none"
	case "host", "default", "": // steps have the network of this machine
	default:
		return nil, fmt.Errorf("--network %s: it is host, default or none: there are no other networks", shared.network)
	}
	if err := o.machine(out); err != nil {
		return nil, err
	}
	for _, kv := range o.attributes {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--opt %s: write KEY=VALUE", kv)
		}
		out[k] = v
	}
	return out, nil
}

// allArguments are the build arguments that the user gives: those of files first, as
// buildah does.
func (o *dockerOptions) allArguments() ([]string, error) {
	var all []string
	for _, name := range o.buildArgFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--build-arg-file: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				all = append(all, line)
			}
		}
	}
	return append(all, o.buildArgs...), nil
}

// given are the names of these arguments.
func (o *dockerOptions) given() ([]string, error) {
	all, err := o.allArguments()
	for i := range all {
		all[i], _, _ = strings.Cut(all[i], "=")
	}
	return all, err
}

// arguments adds build arguments to the frontend's attributes.
func (o *dockerOptions) arguments(out map[string]string) error {
	all, err := o.allArguments()
	if err != nil {
		return err
	}
	if o.epoch != "" {
		out["build-arg:SOURCE_DATE_EPOCH"] = o.epoch
	} else if v := os.Getenv("SOURCE_DATE_EPOCH"); v != "" {
		out["build-arg:SOURCE_DATE_EPOCH"] = v
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		for _, n := range []string{name, strings.ToLower(name)} {
			if v := os.Getenv(n); v != "" {
				out["build-arg:"+n] = v
			}
		}
	}
	for _, arg := range all {
		k, v, ok := strings.Cut(arg, "=")
		if k == "" {
			return fmt.Errorf("--build-arg %s: write NAME=VALUE", arg)
		}
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue // as with docker: the Dockerfile's own default
			}
		}
		out["build-arg:"+k] = v
	}
	return nil
}

// question reads --call and --check: what is asked, and how the answer is wanted.
func (o *dockerOptions) question() (question, error) {
	what, rest, more := strings.Cut(o.call, ",")
	q := question{what: what}
	if o.check {
		q.what = "check"
	}
	for more {
		var kv string
		kv, rest, more = strings.Cut(rest, ",")
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "format":
			if v != "json" && v != "text" {
				return q, fmt.Errorf("--call %s: format is json or text", o.call)
			}
			q.json = v == "json"
		case "ignorestatus":
			yes, err := strconv.ParseBool(v)
			if err != nil {
				return q, fmt.Errorf("--call %s: ignorestatus is true or false", o.call)
			}
			q.ignoreStatus = yes
		default:
			return q, fmt.Errorf("--call %s: %q is none of its keys: they are format and ignorestatus", o.call, k)
		}
	}
	return q, nil
}

// question is what is asked about a Dockerfile in place of a build.
type question struct {
	what         string // build: nothing
	json         bool
	ignoreStatus bool // end with success whatever the answer is
}

// machine adds what steps see of their machine.
func (o *dockerOptions) machine(out map[string]string) error {
	var hosts []string
	for _, h := range o.addHosts {
		name, addr, ok := strings.Cut(h, "=")
		if !ok {
			name, addr, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" {
			return fmt.Errorf("--add-host %s: write NAME:ADDRESS", h)
		}
		if addr == "host-gateway" {
			addr = "127.0.0.1" // steps share the network of this machine
		}
		hosts = append(hosts, name+"="+strings.Trim(addr, "[]"))
	}
	if len(hosts) > 0 {
		out["add-hosts"] = strings.Join(hosts, ",")
	}
	if o.shmSize != "" {
		n, err := bytesOf(o.shmSize)
		if err != nil {
			return fmt.Errorf("--shm-size: %w", err)
		}
		out["shm-size"] = strconv.FormatInt(n, 10)
	}
	if len(o.ulimits) > 0 {
		out["ulimit"] = strings.Join(o.ulimits, ",")
	}
	return nil
}

// bytesOf reads a size such as 64m.
func bytesOf(s string) (int64, error) {
	text := strings.TrimSuffix(strings.ToLower(s), "b")
	text = strings.TrimSuffix(text, "i")
	shift := 0
	if i := strings.IndexAny(text, "kmgt"); i >= 0 && i == len(text)-1 {
		shift = 10 * (1 + strings.IndexByte("kmgt", text[i]))
		text = text[:i]
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no size: write it as 64m", s)
	}
	return n << shift, nil
}

// allowed reads --allow.
func (o *dockerOptions) allowed() (insecure bool, err error) {
	for _, a := range o.allow {
		switch a {
		case "network.host": // the network of this machine is what steps have
		case "security.insecure":
			insecure = true
		default:
			return false, fmt.Errorf("--allow %s: it is network.host or security.insecure", a)
		}
	}
	return insecure, nil
}
