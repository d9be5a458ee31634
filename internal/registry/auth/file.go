// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
)

// maxFile bounds the size of a file in bytes.
const maxFile = 4 << 20

// configFile is the part of config.json and auth.json that is read here.
type configFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

// authEntry is the value of one registry in auths.
type authEntry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// source is a Source that is read once, when it is first needed.
type source struct {
	Source
	once   sync.Once
	config configFile
	err    error
}

// name returns what to call the source in messages.
func (s *source) name() string {
	if s.Data != nil {
		return "credentials from the environment"
	}
	return s.Path
}

// lookup finds the first of the keys in the source.
func (s *source) lookup(ctx context.Context, helper helperFunc, keys []string) (Credentials, error) {
	s.once.Do(s.load)
	if s.err != nil {
		return Credentials{}, s.err
	}
	for _, key := range keys {
		for _, name := range spellings(s.config.CredHelpers, key) {
			c, err := helper(ctx, s.config.CredHelpers[name], serverName(name))
			if err != nil || !c.Anonymous() {
				return c, s.wrap(err)
			}
		}
		for _, name := range spellings(s.config.Auths, key) {
			if c, err := s.config.Auths[name].credentials(); err != nil || !c.Anonymous() {
				if err != nil {
					err = fmt.Errorf("entry %q: %w", name, err)
				}
				return c, s.wrap(err)
			}
		}
	}
	if s.config.CredsStore != "" {
		c, err := helper(ctx, s.config.CredsStore, serverName(keys[len(keys)-1]))
		return c, s.wrap(err)
	}
	return Credentials{}, nil
}

// spellings returns the keys of a map that mean key, sorted.
func spellings[V any](m map[string]V, key string) []string {
	var names []string
	for name := range m {
		if normalKey(name) == key {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// wrap says where an error comes from.
func (s *source) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read credentials: %s: %w", s.name(), err)
}

// load reads and parses the source.
func (s *source) load() {
	data := s.Data
	if data == nil {
		var err error
		if data, err = readFile(s.Path); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				s.err = s.wrap(err)
			}
			return
		}
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return
	}
	if err := json.Unmarshal(data, &s.config); err != nil {
		// The error of encoding/json may quote a secret.
		s.err = s.wrap(errors.New("not a config.json or auth.json: it is not valid JSON of that form"))
	}
}

// readFile reads a regular file of bounded size.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, err
}

// credentials decodes an entry. An empty one, which Docker writes where a helper
// has the secret, is anonymous.
func (e authEntry) credentials() (Credentials, error) {
	c := Credentials{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
	if err != nil {
		data, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(e.Auth))
	}
	user, password, ok := strings.Cut(string(data), ":")
	if err != nil || !ok {
		return Credentials{}, errors.New("auth is not the base64 of USER:PASSWORD")
	}
	c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// serverName returns the name under which a helper knows a registry.
func serverName(key string) string {
	if normalKey(key) == dockerHub {
		return dockerServer
	}
	return key
}
