// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/auth"
)

type loginOptions struct {
	username, password string
	passwordStdin      bool
	skipTLS            bool
	file               string
}

func (a *app) loginCommand() *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login [REGISTRY]",
		Short: "keep credentials for a registry (docker.io)",
		Long: "login asks the registry whether it takes the credentials and keeps them where docker and podman find them:\n" +
			"in $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json if there is one, or else\n" +
			"~/.config/containers/auth.json; in the credential helper that the file names, if it names one.\n" +
			"HOST/PATH keeps them for the repositories below PATH only.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.login(cmd.Context(), o, loginTo(args)) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.username, "username", "u", "", "user name")
	f.StringVarP(&o.password, "password", "p", "", "password (others see it in the list of processes: rather --password-stdin)")
	f.BoolVar(&o.passwordStdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&o.skipTLS, "skip-tls", false, "accept plain http and certificates that cannot be verified")
	f.StringVar(&o.file, "authfile", "", "file that gets the credentials")
	return cmd
}

func (a *app) logoutCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "logout [REGISTRY]",
		Short: "forget the credentials for a registry (docker.io)",
		Args:  cobra.MaximumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.logout(cmd.Context(), file, loginTo(args)) },
	}
	cmd.Flags().StringVar(&file, "authfile", "", "file that has the credentials")
	return cmd
}

// loginTo is the registry that is meant: without one docker's, as with docker login.
func loginTo(args []string) string {
	if len(args) == 0 {
		return reference.DefaultRegistry
	}
	return args[0]
}

// authFile is the file that login changes.
func authFile(given string, getenv func(string) string) (string, error) {
	if given != "" {
		return given, nil
	}
	if f := getenv("REGISTRY_AUTH_FILE"); f != "" {
		return f, nil
	}
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no place for credentials: set HOME, or give --authfile FILE")
	}
	docker := filepath.Join(home, ".docker", "config.json")
	if _, err := os.Stat(docker); err == nil {
		return docker, nil
	}
	return filepath.Join(home, ".config", "containers", "auth.json"), nil
}

func (a *app) login(ctx context.Context, o loginOptions, name string) error {
	key, err := auth.Key(name)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	file, err := authFile(o.file, os.Getenv)
	if err != nil {
		return err
	}
	c, err := a.askCredentials(o)
	if err != nil {
		return fmt.Errorf("login to %s: %w", key, err)
	}
	host, repository, _ := strings.Cut(key, "/")
	options := registryOptions(o.skipTLS)
	options.Credentials = func(context.Context, string, string) (auth.Credentials, error) { return c, nil }
	client := registry.New(options)
	defer client.Close()
	if err := client.Ping(ctx, host, repository); err != nil {
		return fmt.Errorf("login to %s: %w", key, notTaken(err))
	}
	place, err := auth.Login(ctx, file, key, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.std.Out, "logged in to %s; the credentials are in %s\n", key, place)
	home, _ := os.UserHomeDir()
	if found, err := keychain(os.Getenv, home).Lookup(ctx, host, repository); o.file == "" && (err != nil || found != c) {
		fmt.Fprintf(a.std.Err, "warning: other credentials for %s come before these: see docs/registries.md for the order of the files\n", key)
	}
	return nil
}

// notTaken says in place of the advice to log in, which an answer of a registry has, what is
// wrong when one does that.
func notTaken(err error) error {
	var answer *registry.Error
	if !errors.As(err, &answer) || !errors.Is(answer, registry.ErrUnauthorized) {
		return err
	}
	return fmt.Errorf("the registry does not take this user name and password: %s", answer.Answer())
}

// askCredentials takes what the flags say, and asks for the rest.
func (a *app) askCredentials(o loginOptions) (auth.Credentials, error) {
	c := auth.Credentials{Username: o.username, Password: o.password}
	if o.passwordStdin {
		if o.password != "" || o.username == "" {
			return c, errors.New("--password-stdin goes with --username, and without --password")
		}
		data, err := io.ReadAll(io.LimitReader(a.std.In, 64<<10))
		c.Password = string(bytes.TrimRight(data, "\r\n"))
		return c, err
	}
	if c.Username != "" && c.Password != "" {
		return c, nil
	}
	fd := int(a.std.In.Fd())
	if !term.IsTerminal(fd) {
		return c, errors.New("give --username and --password-stdin: there is no terminal to ask at")
	}
	if c.Username == "" {
		fmt.Fprint(a.std.Err, "user name: ")
		line, err := bufio.NewReader(a.std.In).ReadString('\n')
		if err != nil {
			return c, fmt.Errorf("read user name: %w", err)
		}
		c.Username = strings.TrimSpace(line)
	}
	if c.Password == "" {
		fmt.Fprint(a.std.Err, "password: ")
		data, err := term.ReadPassword(fd)
		fmt.Fprintln(a.std.Err)
		if err != nil {
			return c, fmt.Errorf("read password: %w", err)
		}
		c.Password = string(data)
	}
	return c, nil
}

func (a *app) logout(ctx context.Context, given, name string) error {
	key, err := auth.Key(name)
	if err != nil {
		return fmt.Errorf("logout: %w", err)
	}
	file, err := authFile(given, os.Getenv)
	if err != nil {
		return err
	}
	found, err := auth.Logout(ctx, file, key)
	if err != nil {
		return err
	}
	if !found { // what was wanted is so: as with docker, no error
		fmt.Fprintf(a.std.Err, "not logged in to %s: %s has no credentials for it\n", key, file)
		return nil
	}
	fmt.Fprintf(a.std.Out, "logged out of %s\n", key)
	return nil
}
