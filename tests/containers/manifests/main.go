// Builds each kustomization of a folder and checks what comes out against Kubernetes' own types (an unknown or misspelt field is
// an error), and that what belongs together does: selectors, names, ports, volumes.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

type cluster struct {
	sets     []appsv1.StatefulSet
	services []corev1.Service
	budgets  []policyv1.PodDisruptionBudget
	accounts []corev1.ServiceAccount
}

func main() {
	kustomizations, err := filepath.Glob(filepath.Join(os.Args[1], "*", "kustomization.yaml"))
	if err != nil || len(kustomizations) == 0 {
		fail("no kustomizations in %s", os.Args[1])
	}
	for _, path := range kustomizations {
		folder := filepath.Dir(path)
		found, objects := build(folder)
		found.check(folder)
		fmt.Printf("      %s: %d objects\n", filepath.Base(folder), objects)
	}
}

func build(folder string) (found cluster, objects int) {
	options := krusty.MakeDefaultOptions()
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		fail("%s: %v", folder, err)
	}
	for _, resource := range resources.Resources() {
		text := resource.MustYaml()
		switch kind := resource.GetKind(); kind {
		case "StatefulSet":
			found.sets = append(found.sets, decode[appsv1.StatefulSet](folder, text))
		case "Service":
			found.services = append(found.services, decode[corev1.Service](folder, text))
		case "PodDisruptionBudget":
			found.budgets = append(found.budgets, decode[policyv1.PodDisruptionBudget](folder, text))
		case "ServiceAccount":
			found.accounts = append(found.accounts, decode[corev1.ServiceAccount](folder, text))
		default:
			fail("%s: a %s that is not checked", folder, kind)
		}
	}
	return found, resources.Size()
}

func decode[T any](folder, text string) (object T) {
	if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
		fail("%s: %v\n%s", folder, err, text)
	}
	return object
}

func (c cluster) check(folder string) {
	expect(len(c.sets) == 1 && len(c.budgets) == 1, "%s: one set and one budget", folder)
	set := c.sets[0]
	pod := set.Spec.Template
	selects(set.Spec.Selector, pod.Labels, "the set")
	selects(c.budgets[0].Spec.Selector, pod.Labels, "the budget")
	headless := false
	ports := map[string]bool{}
	container := pod.Spec.Containers[0]
	for _, port := range container.Ports {
		ports[port.Name] = true
	}
	for _, service := range c.services {
		selects(metav1.SetAsLabelSelector(service.Spec.Selector), pod.Labels, service.Name)
		headless = headless || service.Name == set.Spec.ServiceName && service.Spec.ClusterIP == "None" && service.Spec.PublishNotReadyAddresses
		for _, port := range service.Spec.Ports {
			expect(ports[port.TargetPort.StrVal], "service %s: no port %s", service.Name, port.TargetPort.StrVal)
		}
	}
	expect(headless, "%s: the set's service %s is headless", folder, set.Spec.ServiceName)
	expect(c.accounts[0].Name == pod.Spec.ServiceAccountName, "%s: the service account", folder)
	claims := map[string]bool{}
	for _, claim := range set.Spec.VolumeClaimTemplates {
		claims[claim.Name] = true
	}
	for _, mount := range container.VolumeMounts {
		expect(claims[mount.Name], "%s: no claim for %s", folder, mount.Name)
	}
	for name, limit := range container.Resources.Limits {
		expect(limit.Cmp(container.Resources.Requests[name]) == 0, "%s: %s is not guaranteed", folder, name)
	}
	expect(len(container.Resources.Limits) == 2, "%s: limits of cpu and memory", folder)
	expect(container.StartupProbe != nil && container.ReadinessProbe != nil && container.LivenessProbe != nil, "%s: probes", folder)
	expect(pod.Spec.SecurityContext.SeccompProfile != nil && *pod.Spec.SecurityContext.RunAsNonRoot, "%s: security", folder)
}

func selects(selector *metav1.LabelSelector, of map[string]string, who string) {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	expect(err == nil && !compiled.Empty() && compiled.Matches(labels.Set(of)), "%s selects the pods", who)
}

func expect(holds bool, format string, values ...any) {
	if !holds {
		fail("not so: "+format, values...)
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}
