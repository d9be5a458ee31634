// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Limits of connections.
const (
	dialTimeout     = 15 * time.Second
	maxHeaderBytes  = 256 << 10
	maxIdlePerHost  = 16
	maxCertFileSize = 1 << 20
)

// transport returns the transport for a host: the shared one unless the host has
// certificates or is insecure. The caller holds c.mu.
func (c *Client) transport(h *host) (*http.Transport, error) {
	config, found, err := c.hostTLS(h.address)
	if err != nil {
		return nil, err
	}
	h.authorities = append(found, h.place.CAs...)
	if config, err = c.placeTLS(config, h); err != nil {
		return nil, err
	}
	if config == nil && !h.insecure {
		if c.shared == nil {
			c.shared = c.newTransport(&tls.Config{RootCAs: c.opts.RootCAs})
		}
		return c.shared, nil
	}
	if config == nil {
		config = &tls.Config{RootCAs: c.opts.RootCAs}
	}
	config.InsecureSkipVerify = h.insecure //nolint:gosec // the user called this registry insecure
	return c.newTransport(config), nil
}

// placeTLS adds the certificates that a place has.
func (c *Client) placeTLS(config *tls.Config, h *host) (*tls.Config, error) {
	if len(h.place.CAs)+len(h.place.Certificates) == 0 {
		return config, nil
	}
	if config == nil {
		config = &tls.Config{RootCAs: c.opts.RootCAs}
	}
	for _, path := range h.place.CAs {
		if err := addAuthority(config, path); err != nil {
			return nil, err
		}
	}
	for _, pair := range h.place.Certificates {
		if err := addCertificate(config, pair[0], pair[1]); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// addCertificate adds a certificate of ours.
func addCertificate(config *tls.Config, path, key string) error {
	pair, err := tls.LoadX509KeyPair(path, key)
	if err != nil {
		return fmt.Errorf("read client certificate %s with %s: %w", path, filepath.Base(key), err)
	}
	config.Certificates = append(config.Certificates, pair)
	return nil
}

// newTransport returns a transport with our limits.
func (c *Client) newTransport(config *tls.Config) *http.Transport {
	config.MinVersion = tls.VersionTLS12
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  c.opts.Proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// A blob is digested as it is sent; decoding it here would change it.
		DisableCompression: true,
	}
}

// hostTLS returns the settings that the certificate directories have for a host, and
// the files of its authorities; nil if there are none. The first directory that has the
// host counts.
func (c *Client) hostTLS(address string) (*tls.Config, []string, error) {
	names := []string{address}
	if name := hostName(address); name != address {
		names = append(names, name)
	}
	for _, dir := range c.opts.CertDirs {
		for _, name := range names {
			// Names come from references, which have no slash and no "..".
			hostDir := filepath.Join(dir, name)
			entries, err := os.ReadDir(hostDir)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, nil, fmt.Errorf("read certificates: %w", err)
			}
			return c.readCerts(hostDir, entries)
		}
	}
	return nil, nil, nil
}

// readCerts reads the certificates of one directory.
func (c *Client) readCerts(dir string, entries []os.DirEntry) (*tls.Config, []string, error) {
	config := &tls.Config{RootCAs: c.opts.RootCAs}
	var authorities []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			if err := addAuthority(config, path); err != nil {
				return nil, nil, err
			}
			authorities = append(authorities, path)
		case ".cert":
			if err := addCertificate(config, path, strings.TrimSuffix(path, ".cert")+".key"); err != nil {
				return nil, nil, err
			}
		}
	}
	if len(authorities)+len(config.Certificates) == 0 {
		return nil, nil, nil
	}
	return config, authorities, nil
}

// addAuthority adds the authorities of a file to those that are trusted already.
func addAuthority(config *tls.Config, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read authority: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxCertFileSize {
		return fmt.Errorf("read authority %s: not a file of certificates", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read authority: %w", err)
	}
	if config.RootCAs == nil {
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			return fmt.Errorf("read authorities of the system: %w", err)
		}
	} else {
		config.RootCAs = config.RootCAs.Clone()
	}
	if !config.RootCAs.AppendCertsFromPEM(data) {
		return fmt.Errorf("read authority %s: no certificate in PEM form", path)
	}
	return nil
}
