// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxEntries is how many imports one COPY may become where an ignore file leaves parts
// of a directory out.
const maxEntries = 200

// place is where the sources of one COPY or ADD go.
type place struct {
	dest     string // absolute; with a slash at the end for a directory
	mode     string
	uid, gid *int
}

func (c *converter) copy(ctx context.Context, s *stage, i *instructions.CopyCommand) error {
	if i.Parents || len(i.ExcludePatterns) > 0 {
		return c.fail("name the files one by one", "COPY with --parents or --exclude cannot be converted")
	}
	p, sources, err := c.place(s, i.SourcesAndDest, i.Chown, i.Chmod)
	if err != nil {
		return err
	}
	if i.From == "" {
		for _, source := range sources {
			if err := c.local(s, source, p); err != nil {
				return err
			}
		}
		return nil
	}
	from, err := c.word(s, i.From)
	if err != nil {
		return err
	}
	name, err := c.fromStage(ctx, from)
	if err != nil {
		return err
	}
	for _, source := range sources {
		if strings.ContainsAny(source, "*?[") {
			return c.fail("name the files one by one", "a wildcard in COPY --from cannot be converted")
		}
		inside := path.Clean("/" + source)
		dest := p.dest
		if strings.HasSuffix(dest, "/") && !strings.HasSuffix(source, "/") && inside != "/" {
			// A file goes into the directory, of a directory the contents: which of the two it
			// is cannot be seen here.
			return c.fail(fmt.Sprintf("write COPY --from=%s %s %s if it is a file, and a slash behind the source if it is a directory", i.From, source, path.Join(dest, path.Base(inside))),
				"whether %s is a file or a directory is not known before the build", source)
		}
		if inside != "/" && strings.HasSuffix(source, "/") {
			inside += "/"
		}
		if err := c.afterDirs(s, dest); err != nil {
			return err
		}
		s.piece.imports = append(s.piece.imports, p.entry("stacker://"+name+inside, dest))
	}
	return nil
}

// fromStage is the stage of the stacker.yaml that --from names. An image becomes a stage.
func (c *converter) fromStage(ctx context.Context, from string) (string, error) {
	if st := c.stages[strings.ToLower(from)]; st != nil {
		return st.name, nil
	}
	if strings.Contains(from, "${{") {
		return "", c.fail("name the image", "COPY --from with an ARG cannot be converted")
	}
	base, err := c.in.Base(ctx, from, c.in.Insecure)
	if err != nil {
		return "", c.fail("", "read the image %s: %v", from, err)
	}
	p := &piece{from: dockerBase(from, base), insecure: c.in.Insecure, buildOnly: true}
	name := "image." + strings.NewReplacer("/", ".", ":", ".", "@", ".").Replace(from)
	if !c.names[name] {
		if err := c.name(p, name); err != nil {
			return "", err
		}
		c.pieces = append(c.pieces, p)
	}
	return name, nil
}

// place reads what COPY and ADD have in common, and sees to it that no script of the
// piece runs before the files are there.
func (c *converter) place(s *stage, i instructions.SourcesAndDest, chown, chmod string) (place, []string, error) {
	if len(i.SourceContents) > 0 {
		return place{}, nil, c.fail("put the text into a file of the build context", "COPY of a heredoc cannot be converted")
	}
	if err := c.fresh(s); err != nil {
		return place{}, nil, err
	}
	dest, err := c.word(s, i.DestPath)
	if err != nil {
		return place{}, nil, err
	}
	var sources []string
	for _, source := range i.SourcePaths {
		source, err := c.word(s, source)
		if err != nil {
			return place{}, nil, err
		}
		sources = append(sources, source)
	}
	dir := strings.HasSuffix(dest, "/") || path.Base(dest) == "." || len(sources) > 1
	if !path.IsAbs(dest) {
		dest = path.Join(s.workdir, dest)
	}
	p := place{dest: path.Clean(dest)}
	if dir && p.dest != "/" {
		p.dest += "/"
	}
	if chmod, err = c.word(s, chmod); err != nil {
		return place{}, nil, err
	}
	if chmod != "" {
		mode, err := strconv.ParseUint(chmod, 8, 32)
		if err != nil || mode > 0o7777 {
			return place{}, nil, c.fail("write an octal mode", "--chmod=%s cannot be converted", chmod)
		}
		p.mode = fmt.Sprintf("%#o", mode)
	}
	if chown, err = c.word(s, chown); err != nil || chown == "" {
		return p, sources, err
	}
	user, group, ok := strings.Cut(chown, ":")
	if !ok {
		group = user
	}
	uid, err1 := strconv.Atoi(user)
	gid, err2 := strconv.Atoi(group)
	if err1 != nil || err2 != nil || uid < 0 || gid < 0 {
		return place{}, nil, c.fail("write numbers: --chown=1000:1000", "--chown=%s cannot be converted: imports take owners by number", chown)
	}
	p.uid, p.gid = &uid, &gid
	return p, sources, nil
}

func (p place) entry(source, dest string) importEntry {
	return importEntry{path: source, dest: dest, mode: p.mode, uid: p.uid, gid: p.gid}
}

// local converts one source of the build context.
func (c *converter) local(s *stage, source string, p place) error {
	if strings.Contains(source, "${{") {
		return c.fail("write the name itself", "a source that is made of an ARG cannot be converted")
	}
	names := []string{inContext(source)}
	if strings.ContainsAny(source, "*?[") {
		var err error
		if names, err = fs.Glob(c.root.FS(), names[0]); err != nil || len(names) == 0 {
			return c.fail("", "nothing in the build context matches %s", source)
		}
		c.note("%s:%d: %s is the list of files that match now; later ones are not added", c.in.Name, c.line, source)
	}
	ignored, err := c.ignored()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.localPath(s, name, p, ignored); err != nil {
			return err
		}
	}
	return nil
}

// localPath converts one file or directory of the build context.
func (c *converter) localPath(s *stage, name string, p place, ignored *patternmatcher.PatternMatcher) error {
	info, err := c.root.Lstat(name)
	if err != nil {
		return c.fail("paths are taken from the build context "+c.in.Context, "%s is not in the build context", name)
	}
	out, err := c.left(name, ignored)
	switch {
	case err != nil:
		return err
	case out && name != ".":
		return c.fail("", "%s is left out by the ignore file", name)
	case info.Mode().IsRegular():
		s.piece.imports = append(s.piece.imports, p.entry(c.path(name), p.dest))
		return nil
	case !info.IsDir():
		return c.fail("copy what it leads to", "%s is no file and no directory", name)
	case p.mode != "":
		return c.fail("", "--chmod of a directory cannot be converted: the mode of an import is that of its files")
	}
	if err := c.afterDirs(s, p.dest); err != nil {
		return err
	}
	dest := strings.TrimSuffix(p.dest, "/")
	before := len(s.piece.imports)
	if err := c.directory(s, name, dest, p, ignored); err != nil {
		return err
	}
	if n := len(s.piece.imports) - before; n > 1 {
		c.note("%s:%d: the ignore file leaves parts of %s out, so that what it has now is named one by one; later files are not added", c.in.Name, c.line, c.path(name))
		if n > maxEntries {
			return c.fail("move what is copied to a directory of its own", "the ignore file leaves parts of %s out, and more than %d entries remain", name, maxEntries)
		}
	}
	return nil
}

// afterDirs starts a new piece where WORKDIR makes the directory dest: the contents of a
// directory that go there must not give it their own directory's owner and mode.
func (c *converter) afterDirs(s *stage, dest string) error {
	if slices.Contains(s.piece.dirs, strings.TrimSuffix(dest, "/")) {
		return c.split(s)
	}
	return nil
}

// directory imports a directory as a whole, or what an ignore file leaves of it.
func (c *converter) directory(s *stage, name, dest string, p place, ignored *patternmatcher.PatternMatcher) error {
	whole := true
	if ignored != nil {
		err := fs.WalkDir(c.root.FS(), name, func(at string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			out, err := c.left(at, ignored)
			if out && at != "." {
				whole = false
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("read build context: %w", err)
		}
	}
	if whole {
		s.piece.imports = append(s.piece.imports, p.entry(strings.TrimSuffix(c.path(name), "/")+"/", dest+"/"))
		return nil
	}
	entries, err := fs.ReadDir(c.root.FS(), name)
	if err != nil {
		return fmt.Errorf("read build context: %w", err)
	}
	for _, e := range entries {
		at := path.Join(name, e.Name())
		out, err := c.left(at, ignored)
		switch {
		case err != nil:
			return err
		case out && (!e.IsDir() || !ignored.Exclusions()):
		case e.IsDir():
			if err := c.directory(s, at, dest+"/"+e.Name(), p, ignored); err != nil {
				return err
			}
		default:
			s.piece.imports = append(s.piece.imports, p.entry(c.path(at), dest+"/"+e.Name()))
		}
	}
	return nil
}

// inContext is a source as a path below the build context. Docker takes all sources from
// there, a leading slash and leading ".." mean nothing.
func inContext(source string) string {
	if name := path.Clean("/" + source)[1:]; name != "" {
		return name
	}
	return "."
}

// path is how the stacker.yaml names a file of the build context.
func (c *converter) path(name string) string {
	if joined := path.Join(c.in.ContextPath, name); joined != "." {
		return joined
	}
	return "./"
}

// ignored reads the ignore file of the build context; nil where there is none.
func (c *converter) ignored() (*patternmatcher.PatternMatcher, error) {
	data, err := c.root.ReadFile(".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ignore file: %w", err)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read ignore file: %w", err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("read ignore file: %w", err)
	}
	return m, nil
}

// left tells whether the ignore file leaves a path out.
func (c *converter) left(name string, ignored *patternmatcher.PatternMatcher) (bool, error) {
	if ignored == nil {
		return false, nil
	}
	out, err := ignored.MatchesOrParentMatches(name)
	if err != nil {
		return false, fmt.Errorf("read ignore file: %w", err)
	}
	return out, nil
}

func (c *converter) add(s *stage, i *instructions.AddCommand) error {
	if len(i.ExcludePatterns) > 0 || i.Unpack != nil || i.KeepGitDir != nil {
		return c.fail("", "ADD with --exclude, --unpack or --keep-git-dir cannot be converted")
	}
	p, sources, err := c.place(s, i.SourcesAndDest, i.Chown, i.Chmod)
	if err != nil {
		return err
	}
	for _, source := range sources {
		switch {
		case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
			if strings.HasSuffix(strings.SplitN(source, "#", 2)[0], ".git") {
				return c.fail("clone it in run:", "ADD of a git repository cannot be converted")
			}
			e := p.entry(source, p.dest)
			if e.mode == "" {
				e.mode = "0600" // as docker
			}
			e.hash = strings.TrimPrefix(i.Checksum, "sha256:")
			s.piece.imports = append(s.piece.imports, e)
			continue
		case strings.HasPrefix(source, "git@"), strings.Contains(source, "://"):
			return c.fail("clone it in run:", "ADD of %s cannot be converted", source)
		case i.Checksum != "":
			return c.fail("", "--checksum is for downloads")
		}
		if archive, err := c.archive(source); err != nil || archive {
			return c.fail("unpack it in run:, or make it a stage: from: {type: tar, url: "+source+"}", "ADD of an archive cannot be converted")
		}
		if err := c.local(s, source, p); err != nil {
			return err
		}
	}
	return nil
}

// magics begin the archives that ADD unpacks.
var magics = []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"}

// archive tells whether ADD would unpack a file of the build context. A file with the
// beginning of a compression is taken for one.
func (c *converter) archive(source string) (bool, error) {
	name := inContext(source)
	if info, err := c.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return false, nil // told where it is copied
	}
	f, err := c.root.Open(name)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", source, err)
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read %s: %w", source, err)
	}
	head = head[:n]
	return slices.ContainsFunc(magics, func(m string) bool { return bytes.HasPrefix(head, []byte(m)) }) ||
		n == 512 && string(head[257:262]) == "ustar", nil
}
