// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/reference"
)

type publishOptions struct {
	build              buildOptions // as the images were built
	search             searchOptions
	url                string
	username, password string
	skipTLS            bool
	tags, images       []string
	showOnly, force    bool
}

func (a *app) publishCommand() *cobra.Command {
	var o publishOptions
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "copy built images to a registry or into another OCI layout",
		Long: "publish copies images from the OCI layout to docker://HOST/PREFIX/NAME:TAG or to the tags NAME_TAG of\n" +
			"another layout. It refuses images that are not as their build file says: give the options of the build.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.publish(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.build.fileOptions.flags(f)
	o.search.flags(f, "")
	o.build.imageFlags(f)
	f.StringVar(&o.url, "url", "", "where to: docker://HOST/PREFIX or oci:DIRECTORY")
	f.StringVar(&o.username, "username", "", "user name for the registry (default: that of docker login or podman login)")
	f.StringVar(&o.password, "password", "", "password for the registry")
	f.BoolVar(&o.skipTLS, "skip-tls", false, "accept plain http and certificates that cannot be verified")
	f.StringArrayVar(&o.tags, "tag", nil, "tag of the published images (may be repeated)")
	f.StringArrayVar(&o.images, "image", nil, "publish only this image (may be repeated)")
	f.BoolVar(&o.showOnly, "show-only", false, "say what would be published where")
	f.BoolVar(&o.force, "force", false, "publish what is in the OCI layout, even if its build file says something else by now")
	return cmd
}

// check refuses what cannot be published.
func (o *publishOptions) check() error {
	if o.url == "" {
		return errors.New("--url is a mandatory argument for publishing")
	}
	if (o.username == "") != (o.password == "") {
		shown := o.password
		if shown != "" {
			shown = "***"
		}
		return fmt.Errorf("supply both username and password, or none of them, current values: '%s' '%s'", o.username, shown)
	}
	if len(o.tags) == 0 {
		from := o.build.file
		if o.search.dir != "" {
			from = o.search.dir
		}
		return fmt.Errorf("can't save OCI images in %s since list of tags is empty: give --tag TAG", from)
	}
	for _, t := range o.tags {
		if !reference.ValidTag(t) {
			return fmt.Errorf("--tag %q: a tag has letters, digits and _.-, at most 128", t)
		}
	}
	return o.build.check()
}

func (a *app) publish(ctx context.Context, o publishOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	to, err := parseDestination(o.url)
	if err != nil {
		return err
	}
	if o.search.dir != "" {
		if o.build.files, err = a.search(o.search); err != nil {
			return err
		}
	}
	o.build.allowMissing = true
	p, err := a.load(o.build.fileOptions)
	if err != nil {
		return err
	}
	stages, err := o.choose(p)
	if err != nil {
		return err
	}
	images, notes, err := o.plan(stages, to)
	if err != nil {
		return err
	}
	from, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return fmt.Errorf("%w: stacker build makes it", err)
	}
	defer from.Close()
	release, err := from.Hold(ctx) // no build may remove what is read here
	if err != nil {
		return err
	}
	defer release()
	if err := a.upToDate(ctx, o, p, from, images); err != nil {
		return err
	}
	if o.showOnly {
		return a.showPublications(images, notes)
	}
	display, err := a.display()
	if err != nil {
		return err
	}
	r := &publishRun{app: a, options: o, from: from, display: display}
	err = r.do(ctx, images, notes, to)
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	return err
}

// choose gives the stages of the files that were asked for, not those of their
// prerequisites, in the order of the files.
func (o *publishOptions) choose(p *stackerfile.Project) ([]*stackerfile.Stage, error) {
	paths := o.build.files
	if paths == nil {
		paths = []string{o.build.file}
	}
	asked := map[string]bool{}
	for _, path := range paths {
		asked[realPath(path)] = true
	}
	var stages []*stackerfile.Stage
	var known []string
	for _, f := range p.Files {
		if !asked[realPath(f.Path)] {
			continue
		}
		for _, s := range f.Stages {
			known = append(known, s.Name)
			if len(o.images) == 0 || slices.Contains(o.images, s.Name) {
				stages = append(stages, s)
			}
		}
	}
	for _, name := range o.images {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("--image %s: there is no such image in %s: it has %v", name, strings.Join(paths, ", "), known)
		}
	}
	return stages, nil
}

// realPath is equal for equal files.
func realPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

// publication is one image and the names that it gets.
type publication struct {
	stage  *stackerfile.Stage
	suffix string // of a layer type
	desc   ocispec.Descriptor
	refs   []reference.Reference // in a registry
	tags   []string              // in a layout
	urls   []string
}

// name is the image's tag in the OCI layout.
func (p *publication) name() string { return p.stage.Name + p.suffix }

// plan names the images. notes are about those that are not published.
func (o *publishOptions) plan(stages []*stackerfile.Stage, to destination) (images []*publication, notes []string, err error) {
	for _, s := range stages {
		if s.BuildOnly {
			notes = append(notes, fmt.Sprintf("will not publish: %s build_only %s", s.File.Name, s.Name))
			continue
		}
		for _, a := range o.build.layers.archives {
			p := &publication{stage: s, suffix: export.Suffix(a)}
			for _, tag := range o.tags {
				if err := to.name(p, tag+p.suffix); err != nil {
					return nil, nil, &stackerfile.Error{Pos: s.Pos, Msg: fmt.Sprintf("cannot publish %s: %v", p.name(), err), Err: err}
				}
			}
			images = append(images, p)
		}
	}
	return images, notes, nil
}

// destination is what --url says. One of the two is set.
type destination struct {
	prefix string // HOST/PREFIX of a registry
	dir    string // of a layout
}

func parseDestination(url string) (destination, error) {
	if rest, ok := strings.CutPrefix(url, "docker://"); ok && strings.Trim(rest, "/") != "" {
		return destination{prefix: strings.TrimRight(rest, "/")}, nil
	}
	if rest, ok := strings.CutPrefix(url, "oci:"); ok && rest != "" {
		return destination{dir: rest}, nil
	}
	return destination{}, fmt.Errorf("unknown image source type: %s: write --url docker://HOST/PREFIX or --url oci:DIRECTORY", url)
}

// name adds the name that an image gets with a tag.
func (d destination) name(p *publication, tag string) error {
	if d.dir != "" {
		t := p.stage.Name + "_" + tag
		p.tags = append(p.tags, t)
		p.urls = append(p.urls, "oci:"+d.dir+":"+t)
		return nil
	}
	name := d.prefix + "/" + p.stage.Name + ":" + tag
	ref, err := reference.Parse(name)
	if err != nil {
		return err
	}
	p.refs = append(p.refs, ref)
	p.urls = append(p.urls, "docker://"+name)
	return nil
}

// showPublications prints what would be done.
func (a *app) showPublications(images []*publication, notes []string) error {
	var b strings.Builder
	for _, n := range notes {
		fmt.Fprintln(&b, n)
	}
	for _, i := range images {
		for _, u := range i.urls {
			fmt.Fprintf(&b, "would publish: %s %s to %s\n", i.stage.File.Name, i.name(), u)
		}
	}
	_, err := progress.NewSafeWriter(a.std.Out, false).Write([]byte(b.String()))
	return err
}

// sameDir tells whether two paths are of one directory.
func sameDir(a, b string) bool {
	i, err := os.Stat(a)
	if err != nil {
		return false
	}
	j, err := os.Stat(b)
	return err == nil && os.SameFile(i, j)
}
