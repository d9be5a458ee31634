// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"build.stacker.dev/internal/atomicfile"
)

// Login keeps credentials for a registry, or for the repositories below
// registry/path, in a file of the form of config.json, and in its credential helper
// where it names one. All else in the file stays as it is. It returns where they are.
func Login(ctx context.Context, path, key string, c Credentials) (place string, err error) {
	if c.Password == "" && c.IdentityToken == "" {
		return "", errors.New("log in: the password is empty")
	}
	if strings.Contains(c.Username, ":") {
		return "", errors.New("log in: a user name has no colon")
	}
	f, err := editFile(path)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	server := serverName(key)
	var entry any = struct{}{} // docker's mark for: the helper has it
	place = "credential helper docker-credential-" + f.helper(key)
	if f.helper(key) != "" {
		user, secret := c.Username, c.Password
		if c.IdentityToken != "" {
			user, secret = tokenUser, c.IdentityToken
		}
		err = callHelper(ctx, f.helper(key), "store", map[string]string{"ServerURL": server, "Username": user, "Secret": secret})
	} else {
		place = path
		entry = storedEntry{Auth: base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password)), IdentityToken: c.IdentityToken}
	}
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	f.forget(key)
	if f.auths[server], err = json.Marshal(entry); err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if err := f.write(); err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	return place, nil
}

// Logout forgets the credentials that Login keeps for the key. It reports whether
// there were any.
func Logout(ctx context.Context, path, key string) (bool, error) {
	f, err := editFile(path)
	if err != nil {
		return false, fmt.Errorf("log out: %w", err)
	}
	found := f.forget(key)
	if name := f.helper(key); name != "" {
		kept, err := runHelper(ctx, name, serverName(key))
		if err != nil {
			return false, fmt.Errorf("log out: %w", err)
		}
		if !kept.Anonymous() {
			found = true
			if err := callHelper(ctx, name, "erase", serverName(key)); err != nil {
				return false, fmt.Errorf("log out: %w", err)
			}
		}
	}
	if !found {
		return false, nil
	}
	if err := f.write(); err != nil {
		return false, fmt.Errorf("log out: %w", err)
	}
	return true, nil
}

// storedEntry is what Login writes for one registry.
type storedEntry struct {
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken,omitempty"`
}

// edited is a config.json that is being changed.
type edited struct {
	path   string // of the file itself, where its name is a link
	all    map[string]json.RawMessage
	auths  map[string]json.RawMessage
	parsed configFile
}

// editFile reads a file to change it; a missing one is empty.
func editFile(path string) (*edited, error) {
	// People keep these files as links into a directory of dot files.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f := &edited{path: path, all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	data, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	malformed := fmt.Errorf("%s is not a config.json or auth.json: mend or remove it", path)
	if json.Unmarshal(data, &f.all) != nil || json.Unmarshal(data, &f.parsed) != nil {
		return nil, malformed
	}
	if raw := f.all["auths"]; raw != nil && json.Unmarshal(raw, &f.auths) != nil {
		return nil, malformed
	}
	if f.auths == nil { // it was null
		f.auths = map[string]json.RawMessage{}
	}
	return f, nil
}

// helper returns the name of the credential helper for a key; empty for none.
func (f *edited) helper(key string) string {
	for _, name := range spellings(f.parsed.CredHelpers, key) {
		return f.parsed.CredHelpers[name]
	}
	return f.parsed.CredsStore
}

// forget removes the entries that mean the key.
func (f *edited) forget(key string) bool {
	names := spellings(f.auths, key)
	for _, name := range names {
		delete(f.auths, name)
	}
	return len(names) > 0
}

// write replaces the file, for its owner only.
func (f *edited) write() (err error) {
	if f.all["auths"], err = json.Marshal(f.auths); err != nil {
		return err
	}
	data, err := json.MarshalIndent(f.all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(f.path, append(data, '\n'), 0o600, atomicfile.Sync)
}
