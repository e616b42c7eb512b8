// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/test/host"
)

// startBuildkit starts BuildKit's daemon and returns a function that runs its
// client.
func startBuildkit(t *testing.T, d *host.Daemon, flags ...string) func(args ...string) string {
	t.Helper()
	program, client := filepath.Join(host.Root(), ".cache", "peers", "buildkitd"), filepath.Join(host.Root(), ".cache", "peers", "buildctl")
	host.Need(t, program, client)
	dir := host.TempDir(t)
	address := "unix://" + filepath.Join(dir, "b.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, append([]string{"--root", filepath.Join(dir, "root"), "--addr", address, "--otel-socket-path", filepath.Join(dir, "o.sock")}, flags...)...)
	cmd.Env = append(os.Environ(), d.Path())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("buildkitd's log:\n%s", text[max(0, len(text)-4096):])
		}
	})
	try := func(args ...string) host.Result {
		return host.Exec(t, nil, "", client, append([]string{"--addr", address}, args...)...)
	}
	host.Until(t, "buildkitd answers", func() bool { return try("debug", "workers").Code == 0 })
	return func(args ...string) string {
		t.Helper()
		r := try(args...)
		if r.Code != 0 {
			t.Fatalf("buildctl %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
		}
		return r.Stdout
	}
}

// dockerfile writes a build of two stages from an image of ref and returns its
// directory.
func dockerfile(t *testing.T, ref string) string {
	t.Helper()
	dir := host.TempDir(t)
	text := fmt.Sprintf(`FROM %[1]s AS build
WORKDIR /src
COPY input .
RUN tr a-z A-Z <input >output && chmod 0640 output && mkdir -p /gone && touch /gone/file
FROM %[1]s
COPY --from=build /src/output /output
RUN rm /bin/vi && echo made >/made
CMD ["cat", "/output"]
`, ref)
	for name, content := range map[string]string{"Dockerfile": text, "input": "built in stages\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBuildkitBuildsWithOurDaemon(t *testing.T) {
	d := host.Start(t, host.Options{})
	build(t, d, "--oci-worker=false", "--containerd-worker=true", "--containerd-worker-addr", d.Address,
		"--containerd-worker-net", "host", "--containerd-worker-gc=false")
}

func TestBuildkitBuildsWithOurRuntime(t *testing.T) {
	build(t, host.Start(t, host.Options{}), "--containerd-worker=false", "--oci-worker=true",
		"--oci-worker-binary", filepath.Join(host.Bin(), "runc"), "--oci-worker-net", "host", "--oci-worker-gc=false")
}

// build has a worker build and push an image, which d then runs.
func build(t *testing.T, d *host.Daemon, worker ...string) {
	t.Helper()
	r := host.StartRegistry(t)
	ref := r.Push(t, host.Busybox(t), "library/busybox:latest")
	buildctl := startBuildkit(t, d, worker...)
	dir := dockerfile(t, ref)
	buildctl("build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir,
		"--output", "type=image,name="+r.Host+"/built:1,push=true,registry.insecure=true")
	d.Ctr(t, "i", "pull", "--plain-http", r.Host+"/built:1")
	if out := d.Ctr(t, "run", "--rm", r.Host+"/built:1", "built"); out != "BUILT IN STAGES\n" {
		t.Errorf("the built image printed %q", out)
	}
	if r := d.Try(t, "run", "--rm", r.Host+"/built:1", "built", "ls", "/bin/vi"); r.Code == 0 {
		t.Error("a file that the build removed is there")
	}
	buildctl("prune", "--all")
}
