// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// cat is cat: -u is taken and ignored.
func cat(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "u", "")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	return p.eachFile(f.rest, func(_ string, r io.Reader) error {
		_, err := io.Copy(p.out, r)
		return err
	})
}

// encode is base64: -d, -w N with 0 for one line.
func encode(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "dw:i", "decode=d wrap=w")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	return p.eachFile(f.rest, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if f.has("d") {
			plain, err := base64.StdEncoding.DecodeString(string(data)) // skips line ends
			if err != nil {
				return errors.New("invalid input")
			}
			_, err = p.out.Write(plain)
			return err
		}
		width := 76
		if _, err := fmt.Sscan(f.last('w', "76"), &width); err != nil || width < 0 {
			return fmt.Errorf("invalid wrap size '%s'", f.last('w', ""))
		}
		text := base64.StdEncoding.EncodeToString(data)
		for width > 0 && len(text) > width {
			fmt.Fprintln(p.out, text[:width])
			text = text[width:]
		}
		fmt.Fprint(p.out, text)
		if width > 0 && text != "" {
			fmt.Fprintln(p.out)
		}
		return nil
	})
}

// mktemp is mktemp: -d, -p DIR, -t, -u, -q, a template that ends in XXX or more.
func mktemp(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "dp:tuq", "directory=d tmpdir=p dry-run=u quiet=q")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	template := "tmp.XXXXXXXXXX"
	dir := f.last('p', "")
	switch {
	case len(f.rest) > 0:
		template = f.rest[0]
	case dir == "":
		dir, _ = p.getenv("TMPDIR")
	}
	if dir == "" && (len(f.rest) == 0 || f.has("t")) {
		dir = "/tmp"
	}
	bare := strings.TrimRight(template, "X")
	if len(template)-len(bare) < 3 {
		return p.fail(1, "too few X's in template '%s'", template)
	}
	name, err := p.makeTemp(filepath.Join(dir, bare), f.has("d"))
	if err == nil && f.has("u") {
		err = os.Remove(p.path(name))
	}
	if err != nil {
		return p.failPath(template, err)
	}
	fmt.Fprintln(p.out, name)
	return 0
}

// makeTemp makes a new file or directory and returns its name, relative as prefix is.
func (p *proc) makeTemp(prefix string, dir bool) (string, error) {
	parent, base := filepath.Split(p.path(prefix))
	if parent == "" {
		parent = "."
	}
	var path string
	if dir {
		var err error
		if path, err = os.MkdirTemp(parent, base+"*"); err != nil {
			return "", err
		}
	} else {
		file, err := os.CreateTemp(parent, base+"*")
		if err != nil {
			return "", err
		}
		if err := file.Close(); err != nil {
			return "", err
		}
		path = file.Name()
	}
	return filepath.Join(filepath.Dir(prefix), filepath.Base(path)), nil
}
