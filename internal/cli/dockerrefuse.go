// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/pflag"
)

// refusal is a flag of docker build or buildah build that cannot be honoured here.
type refusal struct {
	why    string   // and what to do instead; empty: there is nothing to refuse
	accept []string // values with which it asks for what is done anyway
	alone  string   // value of the flag without one; empty: it needs a value
	short  string   // its one letter
}

// Reasons of more than one flag.
const (
	noGroups       = "steps have no control group of their own; put the whole build into one (systemd-run --user --scope -p MemoryMax=…)"
	noAttestations = "attestations of Dockerfile builds are not made; stacker.yaml has bom:"
	noBOM          = noAttestations + " {generate: true}"
	noResolver     = "steps resolve names as this machine does; --add-host NAME:ADDRESS adds one"
	noMounts       = "files of this machine are shown by --build-context and RUN --mount=type=bind,from=NAME"
	noRemoval      = "what the base has is kept; write the instruction that replaces it into the Dockerfile"
)

// refusals gives the flags by name.
func refusals() map[string]refusal {
	yes, no, zero := []string{"true"}, []string{"false"}, []string{"0"}
	both := []string{"true", "false"}
	return map[string]refusal{
		"attest":               {why: noAttestations},
		"builder":              {why: "there is no daemon to choose: leave it out", accept: []string{"default"}},
		"cache-ttl":            {why: "results of steps do not grow old; --no-cache runs all steps"},
		"cap-add":              {why: "a step's capabilities are fixed; see RUN --security=insecure and --allow security.insecure"},
		"cap-drop":             {why: "a step's capabilities are fixed"},
		"cgroup-parent":        {why: noGroups},
		"compress":             {accept: both, alone: "true"}, // no daemon: nothing is sent
		"compression-format":   {why: "it belongs to an output: --output type=…,compression=gzip|zstd|uncompressed"},
		"compression-level":    {why: "it belongs to an output: --output type=…,compression-level=NUMBER"},
		"cpp-flag":             {why: "Dockerfiles are not preprocessed; use ARG, or give what cpp makes with -f -"},
		"cpu-period":           {why: noGroups, accept: zero},
		"cpu-quota":            {why: noGroups, accept: zero},
		"cpu-shares":           {why: noGroups, accept: zero},
		"cpuset-cpus":          {why: noGroups},
		"cpuset-mems":          {why: noGroups},
		"created-annotation":   {why: "images get no annotation but those of --annotation", accept: no, alone: "true"},
		"cw":                   {why: "images for confidential computing are not made"},
		"decryption-key":       {why: "encrypted images are not read; decrypt them with skopeo copy --decryption-key"},
		"device":               {why: "steps cannot have devices of this machine"},
		"dns":                  {why: noResolver},
		"dns-option":           {why: noResolver},
		"dns-search":           {why: noResolver},
		"env":                  {why: "the image's environment is the Dockerfile's: write ENV NAME=$NAME below ARG NAME, and --build-arg NAME=VALUE"},
		"force-rm":             {accept: both, alone: "true"}, // there are no containers to keep
		"from":                 {why: "name the base by ARG before FROM and --build-arg, or replace it by --build-context NAME=docker-image://IMAGE"},
		"hooks-dir":            {why: "there is no OCI runtime that would run hooks"},
		"identity-label":       {why: "images get no label but the Dockerfile's; --label sets one", accept: no, alone: "true"},
		"iidfile-raw":          {why: "use --iidfile, and cut sha256: off"},
		"inherit-annotations":  {why: "annotations of the base are not taken over; --annotation sets them", accept: no, alone: "true"},
		"inherit-labels":       {why: noRemoval, accept: yes, alone: "true"},
		"isolation":            {why: "there is one kind of isolation: leave it out", accept: []string{"default", "oci", "rootless"}},
		"layer-label":          {why: "layers have no labels; --label is for the image"},
		"layers":               {why: "every instruction makes a layer; --no-cache runs all again", accept: yes, alone: "true"},
		"manifest":             {why: "name several --platform, and the index gets the name of --tag"},
		"memory":               {why: noGroups, accept: zero, short: "m"},
		"memory-swap":          {why: noGroups, accept: zero},
		"mount":                {why: noMounts},
		"omit-history":         {why: "the history is part of the image", accept: no, alone: "true"},
		"policy":               {why: "source policies are not supported; name bases and downloads by digest"},
		"provenance":           {why: noAttestations, accept: no, alone: "true"},
		"resource":             {why: noGroups},
		"retry":                {why: "requests that can be tried again are tried again, a fixed number of times"},
		"retry-delay":          {why: "the time between attempts is chosen by what went wrong"},
		"rewrite-timestamp":    {why: "it belongs to an output: --output type=…,rewrite-timestamp=true", accept: no, alone: "true"},
		"rm":                   {why: "containers are never kept", accept: yes, alone: "true"},
		"save-stages":          {why: "name a stage with --target and --tag to keep it", accept: no, alone: "true"},
		"sbom":                 {why: noBOM, accept: no, alone: "true"},
		"sbom-image-output":    {why: noBOM},
		"sbom-merge-strategy":  {why: noBOM},
		"sbom-output":          {why: noBOM},
		"sbom-purl-output":     {why: noBOM},
		"sbom-scanner-command": {why: noBOM},
		"sbom-scanner-image":   {why: noBOM},
		"security-opt":         {why: "a step's confinement is fixed"},
		"sign-by":              {why: "images are not signed here; sign what was pushed, by its digest (cosign, notation)"},
		"source-policy-file":   {why: "source policies are not supported; name bases and downloads by digest"},
		"squash":               {why: "layers are kept as instructions make them; FROM scratch and COPY --from=STAGE / / has one layer", accept: no, alone: "true"},
		"stage-labels":         {why: "stages make no images; name one with --target and --tag", accept: no, alone: "true"},
		"timestamp":            {why: "--source-date-epoch SECONDS sets the times of the image, and with --output …,rewrite-timestamp=true the latest of files"},
		"unsetannotation":      {why: "annotations of the base are not taken over"},
		"unsetenv":             {why: noRemoval},
		"unsetlabel":           {why: noRemoval},
		"volume":               {why: noMounts, short: "v"},
	}
}

func (o *dockerOptions) refusedFlags(f *pflag.FlagSet) {
	o.refused = map[string]*[]string{}
	for name, r := range refusals() {
		o.refused[name] = f.StringArrayP(name, r.short, nil, r.why)
		f.Lookup(name).Hidden = true
		f.Lookup(name).NoOptDefVal = r.alone
	}
}

// refuse names the first flag that asks for what is not done.
func (o *dockerOptions) refuse() error {
	known := refusals()
	for _, n := range slices.Sorted(maps.Keys(o.refused)) {
		r := known[n]
		for _, v := range *o.refused[n] {
			if r.why != "" && !slices.Contains(r.accept, v) {
				return fmt.Errorf("--%s %s cannot be honoured: %s", n, v, r.why)
			}
		}
	}
	if o.jobs < 0 {
		return fmt.Errorf("--jobs %d: it is a number of steps", o.jobs)
	}
	return nil
}
