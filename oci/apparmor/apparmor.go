// SPDX-License-Identifier: Apache-2.0

// Package apparmor makes and loads an AppArmor profile for containers that
// name none of their own (apparmor.d(5)).
//
// The profile lets a container do what its capabilities and namespaces allow,
// and keeps it from mounting, from the parts of /proc and /sys that reach the
// host, and from processes under other profiles.
package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
	abstractions = "/etc/apparmor.d/abstractions/base"
	tunables     = "/etc/apparmor.d/tunables/global"
)

// Enabled says whether the kernel enforces AppArmor.
func Enabled() bool {
	text, err := os.ReadFile(enabledFile)
	return err == nil && bytes.HasPrefix(text, []byte("Y"))
}

// Default loads the default profile as name, unless a profile of that name is
// loaded. Without AppArmor in the kernel it is errdefs.ErrNotImplemented.
func Default(ctx context.Context, name string) error {
	if !profileName.MatchString(name) {
		return fmt.Errorf("AppArmor profile %q: not a name: %w", name, errdefs.ErrInvalidArgument)
	}
	if !Enabled() {
		return fmt.Errorf("AppArmor profile %s: the kernel has no AppArmor, or it is off (%s): %w", name, enabledFile, errdefs.ErrNotImplemented)
	}
	f, err := os.Open(profilesFile)
	if err != nil {
		return fmt.Errorf("AppArmor profile %s: %w", name, err)
	}
	defer f.Close()
	loaded, err := contains(f, name)
	if err != nil || loaded {
		return err
	}
	return load(ctx, name)
}

// profileName leaves out what the profile language gives a meaning.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// contains looks for a profile in the kernel's list, in lines "name (mode)".
func contains(r io.Reader, name string) (bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if loaded, _, ok := strings.Cut(lines.Text(), " ("); ok && loaded == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

func load(ctx context.Context, name string) error {
	cmd := exec.CommandContext(ctx, "apparmor_parser", "--replace", "--skip-cache")
	cmd.Stdin = strings.NewReader(Profile(name, has(tunables), has(abstractions)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("AppArmor profile %s: apparmor_parser: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func has(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Profile is the text of the default profile, with what distributions supply
// if that is there.
func Profile(name string, tunables, abstractions bool) string {
	var b strings.Builder
	if tunables {
		b.WriteString("#include <tunables/global>\n")
	} else {
		b.WriteString("@{PROC}=/proc/\n")
	}
	fmt.Fprintf(&b, "profile %s flags=(attach_disconnected,mediate_deleted) {\n", name)
	if abstractions {
		b.WriteString("  #include <abstractions/base>\n")
	}
	for _, rule := range rules {
		fmt.Fprintf(&b, "  %s,\n", strings.ReplaceAll(rule, "NAME", name))
	}
	b.WriteString("}\n")
	return b.String()
}

// rules of the profile NAME. A denial wins over what is allowed.
var rules = []string{
	"network", "capability", "file", "umount",
	// The runtime ends containers, and the host's tools look at them.
	"signal (receive) peer=unconfined", "signal (receive) peer=runc", "signal (receive) peer=crun",
	"signal (send, receive) peer=NAME",
	"ptrace (trace, read, tracedby, readby) peer=NAME",
	"deny mount", "deny pivot_root",
	// What of /proc belongs to the host: drivers, settings without a namespace,
	// and memory.
	"deny @{PROC}/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wkl",
	"deny @{PROC}/sys/{abi,crypto,debug,dev,fs,sunrpc,user,vm}/** wkl",
	"deny @{PROC}/sys/kernel/{core_*,modprobe,hotplug,poweroff_cmd,panic*,printk*,kexec_*,modules_disabled,randomize_va_space,sysrq,unprivileged_*,yama/**} wkl",
	"deny @{PROC}/{sysrq-trigger,kcore,kmem,mem,kallsyms,timer_list} rwkl",
	// Of /sys only file systems' settings stay, and of these cgroups.
	"deny /sys/{block,bus,class,dev,devices,hypervisor,module,power}/** wkl",
	"deny /sys/{firmware,kernel}/** rwkl",
	"deny /sys/devices/virtual/powercap/** rwkl",
	"deny /sys/fs/{bpf,btrfs,erofs,ext4,f2fs,fuse,nfs,pstore,resctrl,selinux,smackfs,xfs}/** wkl",
}
