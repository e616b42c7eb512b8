// SPDX-License-Identifier: Apache-2.0

// Package docker reads and writes the credentials that docker login keeps: in
// config.json, or with the credential helpers that it names.
//
// What is meant for Docker Hub is kept under the address of its old index,
// whatever the name that it is asked for by.
package docker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"slipway/registry"
)

// Config is one config.json with its helpers. It is read once, when opened.
type Config struct {
	path  string
	store *credentials.DynamicStore
}

// Path is where Docker keeps its file: below $DOCKER_CONFIG or ~/.docker.
func Path() (string, error) {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("docker's config.json: %w", err)
	}
	return filepath.Join(home, ".docker", "config.json"), nil
}

// Open reads the file path, which need not exist; "" is Path.
func Open(path string) (_ *Config, err error) {
	if path == "" {
		if path, err = Path(); err != nil {
			return nil, err
		}
	}
	store, err := credentials.NewStore(path, credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return &Config{path, store}, nil
}

// hub is the key of Docker Hub.
const hub = "https://index.docker.io/v1/"

// key is what a host is kept under.
func key(host string) string {
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return hub
	}
	return host
}

// Credential finds what is kept for a host, the zero value if nothing is. It
// fits registry.Options.Credentials.
func (c *Config) Credential(ctx context.Context, host string) (registry.Credential, error) {
	got, err := c.store.Get(ctx, key(host))
	if err != nil {
		return registry.Credential{}, fmt.Errorf("%s: credentials of %s: %w", c.path, host, err)
	}
	cred := registry.Credential{Username: got.Username, Password: got.Password, RefreshToken: got.RefreshToken}
	if got.AccessToken != "" && got.Username == "" && got.RefreshToken == "" {
		cred.Header = "Bearer " + got.AccessToken
	}
	return cred, nil
}

// Login asks the registry at host whether it takes cred, and keeps it then.
func (c *Config) Login(ctx context.Context, host string, cred registry.Credential, opts registry.Options) error {
	if cred.Header != "" {
		return fmt.Errorf("login to %s: a header cannot be kept: %w", host, errdefs.ErrInvalidArgument)
	}
	opts.Credentials = func(context.Context, string) (registry.Credential, error) { return cred, nil }
	if err := registry.Ping(ctx, host, opts); err != nil {
		return fmt.Errorf("login to %s: %w", host, err)
	}
	keep := auth.Credential{Username: cred.Username, Password: cred.Password, RefreshToken: cred.RefreshToken}
	if keep.Username == "" && keep.RefreshToken == "" { // an identity token
		keep.RefreshToken, keep.Password = keep.Password, ""
	}
	if err := c.store.Put(ctx, key(host), keep); err != nil {
		return fmt.Errorf("%s: credentials of %s: %w", c.path, host, err)
	}
	return nil
}

// Logout forgets what is kept for a host. Nothing is errdefs.ErrNotFound.
func (c *Config) Logout(ctx context.Context, host string) error {
	got, err := c.store.Get(ctx, key(host))
	if err == nil && got == auth.EmptyCredential {
		return fmt.Errorf("%s: credentials of %s: %w", c.path, host, errdefs.ErrNotFound)
	}
	if err == nil {
		err = c.store.Delete(ctx, key(host))
	}
	if err != nil {
		return fmt.Errorf("%s: credentials of %s: %w", c.path, host, err)
	}
	return nil
}
