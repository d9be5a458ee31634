// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/build"
)

// maxSecret is the size of a secret in bytes, as in BuildKit.
const maxSecret = 500 << 10

// secretStore knows what --secret and --ssh name. Values are read when a step
// asks for them. It implements build.Secrets.
type secretStore struct {
	secrets map[string]secretSource
	agents  map[string][]string // socket or key files; empty: SSH_AUTH_SOCK
}

type secretSource struct{ file, env string }

var _ build.Secrets = (*secretStore)(nil)

func newSecrets(secrets, sockets []string) (*secretStore, error) {
	s := &secretStore{secrets: map[string]secretSource{}, agents: map[string][]string{}}
	for _, text := range secrets {
		id, src, err := parseSecret(text)
		if err != nil {
			return nil, err
		}
		s.secrets[id] = src
	}
	for _, text := range sockets {
		id, paths, ok := strings.Cut(text, "=")
		if id == "" {
			return nil, fmt.Errorf("--ssh %s: write default, ID, ID=SOCKET or ID=KEY", text)
		}
		s.agents[id] = nil
		if ok && paths != "" {
			s.agents[id] = strings.Split(paths, ",")
			for _, p := range s.agents[id] {
				if _, err := os.Stat(p); err != nil {
					return nil, fmt.Errorf("--ssh %s: %w", id, err)
				}
			}
		} else if os.Getenv("SSH_AUTH_SOCK") == "" {
			return nil, fmt.Errorf("--ssh %s: there is no agent: SSH_AUTH_SOCK is not set; name a socket or a key: --ssh %s=FILE", text, id)
		}
	}
	return s, nil
}

// parseSecret reads id=ID,src=FILE,env=NAME,type=file|env.
func parseSecret(text string) (id string, s secretSource, err error) {
	kind := ""
	for field := range strings.SplitSeq(text, ",") {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			k, v = "id", k
			if id != "" {
				return "", s, fmt.Errorf("--secret %s: write id=ID,src=FILE or id=ID,env=NAME", text)
			}
		}
		switch strings.ToLower(k) {
		case "id":
			id = v
		case "src", "source":
			s.file = v
		case "env":
			s.env = v
		case "type":
			if kind = v; kind != "file" && kind != "env" {
				return "", s, fmt.Errorf("--secret %s: type is file or env", text)
			}
		default:
			return "", s, fmt.Errorf("--secret %s: unknown key %q", text, k)
		}
	}
	if id == "" {
		return "", s, fmt.Errorf("--secret %s: it has no id", text)
	}
	if kind == "env" && s.env == "" {
		s.env, s.file = s.file, ""
	}
	if s.file == "" && s.env == "" {
		if _, ok := os.LookupEnv(id); ok || kind == "env" {
			s.env = id
		} else {
			s.file = id
		}
	}
	if s.file != "" {
		if _, err := os.Stat(s.file); err != nil {
			return "", s, fmt.Errorf("--secret id=%s: %w", id, err)
		}
	}
	return id, s, nil
}

// Secret implements build.Secrets.
func (s *secretStore) Secret(id string) ([]byte, bool, error) {
	src, ok := s.secrets[id]
	if !ok {
		return nil, false, nil
	}
	if src.file == "" {
		v, ok := os.LookupEnv(src.env)
		return []byte(v), ok, nil
	}
	data, err := atomicfile.ReadRegular(src.file, maxSecret)
	if err != nil {
		return nil, false, fmt.Errorf("read secret %s: %w", id, err)
	}
	return data, true, nil
}

// Agent implements build.Secrets.
func (s *secretStore) Agent(id string) (func() (net.Conn, error), bool, error) {
	paths, ok := s.agents[id]
	if !ok {
		return nil, false, nil
	}
	if len(paths) == 0 {
		paths = []string{os.Getenv("SSH_AUTH_SOCK")}
	}
	if info, err := os.Stat(paths[0]); err == nil && info.Mode()&os.ModeSocket != 0 {
		if len(paths) > 1 {
			return nil, false, fmt.Errorf("--ssh %s: a socket stands alone", id)
		}
		return func() (net.Conn, error) {
			c, err := net.Dial("unix", paths[0])
			if err != nil {
				return nil, err
			}
			return serveAgent(agent.NewClient(c), c), nil
		}, true, nil
	}
	keys := agent.NewKeyring()
	for _, p := range paths {
		data, err := atomicfile.ReadRegular(p, maxSecret)
		if err != nil {
			return nil, false, fmt.Errorf("--ssh %s: %w", id, err)
		}
		key, err := ssh.ParseRawPrivateKey(data)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, false, fmt.Errorf("--ssh %s: key %s has a passphrase: give it to an agent with ssh-add, and write --ssh %s", id, p, id)
		}
		if err != nil {
			return nil, false, fmt.Errorf("--ssh %s: %s is no private key: %w", id, p, err)
		}
		if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, false, fmt.Errorf("--ssh %s: %w", id, err)
		}
	}
	return func() (net.Conn, error) { return serveAgent(keys, nil), nil }, true, nil
}

// serveAgent lets a step sign with an agent's keys, and change nothing in it.
func serveAgent(a agent.Agent, under net.Conn) net.Conn {
	here, there := net.Pipe()
	go func() {
		_ = agent.ServeAgent(signOnly{a}, here) // ends with the connection
		_ = here.Close()
		if under != nil {
			_ = under.Close()
		}
	}()
	return there
}

// signOnly is an agent that lists its keys and signs.
type signOnly struct{ agent.Agent }

var errReadOnly = errors.New("a step may only sign with the agent's keys")

// Add implements agent.Agent.
func (signOnly) Add(agent.AddedKey) error { return errReadOnly }

// Remove implements agent.Agent.
func (signOnly) Remove(ssh.PublicKey) error { return errReadOnly }

// RemoveAll implements agent.Agent.
func (signOnly) RemoveAll() error { return errReadOnly }

// Lock implements agent.Agent.
func (signOnly) Lock([]byte) error { return errReadOnly }

// Unlock implements agent.Agent.
func (signOnly) Unlock([]byte) error { return errReadOnly }
