// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"errors"
	"fmt"
	"strings"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func namespaceCommands() []command {
	return []command{
		{use: "create NAME [KEY=VALUE...]", aliases: []string{"c"}, short: "Create a namespace", declare: createNamespace},
		{use: "list", aliases: []string{"ls"}, short: "List namespaces", declare: listNamespaces},
		{use: "remove NAME...", aliases: []string{"rm"}, short: "Remove namespaces, which must be empty", declare: removeNamespaces},
		{use: "label NAME KEY=VALUE...", short: "Set labels, or clear those whose value is empty", declare: labelNamespace},
	}
}

var errNoNamespace = errors.New("please specify a namespace")

func createNamespace(flagSet) action {
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errNoNamespace
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		_, err = c.Namespaces().Create(s.ctx, &namespacesapi.CreateNamespaceRequest{
			Namespace: &namespacesapi.Namespace{Name: args[0], Labels: labels(args[1:])},
		})
		return err
	}
}

func listNamespaces(f flagSet) action {
	quiet := f.BoolP("quiet", "q", false, "Print only the names")
	return func(s *session, _ []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		resp, err := c.Namespaces().List(s.ctx, &namespacesapi.ListNamespacesRequest{})
		if err != nil {
			return err
		}
		if *quiet {
			for _, n := range resp.Namespaces {
				fmt.Fprintln(s.out, n.Name)
			}
			return nil
		}
		w := s.table(1, 1, "NAME\tLABELS\t")
		for _, n := range resp.Namespaces {
			fmt.Fprintf(w, "%s\t%s\t\n", n.Name, strings.Join(pairs(n.Labels), ","))
		}
		return w.Flush()
	}
}

func removeNamespaces(f flagSet) action {
	cgroup := f.BoolP("cgroup", "c", false, "Delete the namespace's cgroup as well")
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		return s.each(args, "unable to delete %v", func(name string) error {
			_, err := c.Namespaces().Delete(s.ctx, &namespacesapi.DeleteNamespaceRequest{Name: name})
			if err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("unable to delete %v: %w", name, err)
			}
			if err == nil && *cgroup {
				if err := removeCgroup(name); err != nil {
					return fmt.Errorf("unable to delete %v: %w", name, err)
				}
			}
			fmt.Fprintln(s.out, name)
			return nil
		})
	}
}

func labelNamespace(flagSet) action {
	return func(s *session, args []string) error {
		if arg(args, 0) == "" {
			return errNoNamespace
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		for key, value := range labels(args[1:]) {
			_, err := c.Namespaces().Update(s.ctx, &namespacesapi.UpdateNamespaceRequest{
				Namespace:  &namespacesapi.Namespace{Name: args[0], Labels: map[string]string{key: value}},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels." + key}},
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}
