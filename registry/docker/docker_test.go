// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/registry"
	hubtest "slipway/test/hub"
)

func write(t testing.TB, body string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// helper puts a credential helper into the path that knows one host.
func helper(t *testing.T, name, host, user, secret string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
read host
case $1:$host in
get:%s) echo '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' ;;
get:*) echo "credentials not found in native keychain"; exit 1 ;;
store:*|erase:*) echo "$1 $host" >> %s/log ;;
esac
`, host, host, user, secret, dir)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentials(t *testing.T) {
	helper(t, "some", "help.example", "<token>", "identity")
	const pair = `{"auth":"dXNlcjpwYTpzcw=="}` // user:pa:ss
	for claim, c := range map[string]struct {
		config, host string
		want         registry.Credential
	}{
		"a pair":                {`{"auths":{"reg.example":` + pair + `}}`, "reg.example", registry.Credential{Username: "user", Password: "pa:ss"}},
		"with a scheme":         {`{"auths":{"https://reg.example/v1/":` + pair + `}}`, "reg.example", registry.Credential{Username: "user", Password: "pa:ss"}},
		"the hub":               {`{"auths":{"https://index.docker.io/v1/":` + pair + `}}`, "registry-1.docker.io", registry.Credential{Username: "user", Password: "pa:ss"}},
		"the hub by its name":   {`{"auths":{"https://index.docker.io/v1/":` + pair + `}}`, "docker.io", registry.Credential{Username: "user", Password: "pa:ss"}},
		"an identity token":     {`{"auths":{"reg.example":{"identitytoken":"it"}}}`, "reg.example", registry.Credential{RefreshToken: "it"}},
		"a registry token":      {`{"auths":{"reg.example":{"registrytoken":"rt"}}}`, "reg.example", registry.Credential{Header: "Bearer rt"}},
		"another host":          {`{"auths":{"reg.example":` + pair + `}}`, "other.example", registry.Credential{}},
		"a helper of a host":    {`{"credHelpers":{"help.example":"some"}}`, "help.example", registry.Credential{RefreshToken: "identity"}},
		"a helper of all":       {`{"credsStore":"some"}`, "help.example", registry.Credential{RefreshToken: "identity"}},
		"a helper that has not": {`{"credsStore":"some"}`, "reg.example", registry.Credential{}},
		"a port":                {`{"auths":{"reg.example:5000":` + pair + `}}`, "reg.example:5000", registry.Credential{Username: "user", Password: "pa:ss"}},
	} {
		conf, err := Open(write(t, c.config))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := conf.Credential(t.Context(), c.host); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", claim, got, err)
		}
	}
}

func TestBrokenConfigIsNamed(t *testing.T) {
	for claim, body := range map[string]string{
		"no JSON":  `{"auths":`,
		"no table": `{"auths":[]}`,
	} {
		file := write(t, body)
		if _, err := Open(file); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", claim, err)
		}
	}
	conf, err := Open(write(t, `{"credHelpers":{"a":"no-such-helper"},"auths":{"b":{"auth":"%%%"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a", "b"} {
		if _, err := conf.Credential(t.Context(), host); err == nil || !strings.Contains(err.Error(), "credentials of "+host) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestLoginAndLogout(t *testing.T) {
	for claim, o := range map[string]hubtest.Options{
		"basic": {User: "u", Password: "p"}, "token": {User: "u", Password: "p", Token: true},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hubtest.New(t, o)
			file := write(t, `{"auths":{"other":{"auth":"dXNlcjpwYTpzcw=="}},"unknown":{"kept":true}}`)
			conf, err := Open(file)
			if err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(file)
			if err := conf.Login(t.Context(), h.Host, registry.Credential{Username: "u", Password: "wrong"}, registry.Options{}); !errdefs.IsUnauthorized(err) {
				t.Errorf("a wrong password: %v", err)
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
				t.Errorf("a refused login was kept: %s", after)
			}
			if err := conf.Login(t.Context(), h.Host, registry.Credential{Username: "u", Password: "p"}, registry.Options{}); err != nil {
				t.Fatal(err)
			}
			again, err := Open(file)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := again.Credential(t.Context(), h.Host); err != nil || got.Username != "u" || got.Password != "p" {
				t.Errorf("kept %+v, %v", got, err)
			}
			data, _ := os.ReadFile(file)
			if fi, _ := os.Stat(file); fi.Mode().Perm() != 0o600 || !bytes.Contains(data, []byte("kept")) {
				t.Errorf("mode %v: %s", fi.Mode(), data)
			}
			if err := again.Logout(t.Context(), h.Host); err != nil {
				t.Error(err)
			}
			if err := again.Logout(t.Context(), h.Host); !errdefs.IsNotFound(err) {
				t.Errorf("a second logout: %v", err)
			}
		})
	}
}

func TestIdentityTokenLogsIn(t *testing.T) {
	h := hubtest.New(t, hubtest.Options{User: "u", Password: "refresh", Token: true})
	h.Image("x", "t", "amd64")
	conf, err := Open(write(t, `{"auths":{"`+h.Host+`":{"identitytoken":"refresh"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(h.Ref("x", "t"), registry.Options{Credentials: conf.Credential})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Resolve(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"auths":{"reg.example":{"auth":"dXNlcjpwYTpzcw=="}}}`))
	f.Add([]byte(`{"auths":{"reg.example":{"identitytoken":1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(bytes.ToLower(data), []byte("cred")) || bytes.Contains(data, []byte(`\u`)) {
			t.Skip("would run helpers")
		}
		if conf, err := Open(write(t, string(data))); err == nil {
			conf.Credential(t.Context(), "reg.example")
		}
	})
}
