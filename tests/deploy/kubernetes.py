"""Holds the kustomizations of deploy/kubernetes against the schemas of Kubernetes, and what refers to each other in them
against each other. Of kustomize it knows what they use: resources, patches by name, generated ConfigMaps."""

import sys
from pathlib import Path

import kubernetes_validate
import yaml

KUSTOMIZATION = {"apiVersion", "kind", "resources", "patches", "configMapGenerator"}
# Resource types of the Prometheus operator have no schema here: these are the keys that it documents.
SERVICE_MONITOR = {"selector", "endpoints"}
ENDPOINT = {"port", "path", "interval"}


def read(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def merge(base, patch):
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    return base | {key: merge(base.get(key), value) for key, value in patch.items()}


def build(directory):
    (kustomization,) = read(directory / "kustomization.yaml")
    unknown = kustomization.keys() - KUSTOMIZATION
    assert not unknown, f"{directory}: kustomization.yaml has {unknown}"
    resources, maps = {}, {}
    for name in kustomization["resources"]:
        path = directory / name
        if path.is_dir():
            inner, inner_maps = build(path)
            resources |= inner
            maps |= inner_maps
        else:
            resources |= {(r["kind"], r["metadata"]["name"]): r for r in read(path)}
    for patch in kustomization.get("patches", []):
        for document in read(directory / patch["path"]):
            key = document["kind"], document["metadata"]["name"]
            resources[key] = merge(resources[key], document)
    for generated in kustomization.get("configMapGenerator", []):
        assert (generated["name"] in maps) == (generated.get("behavior") == "replace"), f"{directory}: {generated}"
        for name in generated["files"]:
            assert (directory / name).is_file(), f"{directory}: no {name}"
        maps[generated["name"]] = set(generated["files"])
    left = {p.name for p in directory.iterdir()} - {"kustomization.yaml"}
    left -= set(kustomization["resources"]) | {p["path"] for p in kustomization.get("patches", [])}
    left -= {name for g in kustomization.get("configMapGenerator", []) for name in g["files"]}
    assert not left, f"{directory}: nothing refers to {left}"
    return resources, maps


def check(directory):
    resources, maps = build(directory)
    of_kind = lambda kind: [r for (k, _), r in resources.items() if k == kind]
    selects = lambda selector, labels: selector.items() <= labels.items()
    for (kind, name), resource in resources.items():
        if kind == "ServiceMonitor":
            assert resource["spec"].keys() <= SERVICE_MONITOR, name
            assert all(e.keys() <= ENDPOINT for e in resource["spec"]["endpoints"]), name
        else:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)

    pods = []
    for deployment in of_kind("Deployment"):
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert selects(deployment["spec"]["selector"]["matchLabels"], labels)
        spec = template["spec"]
        containers = spec["containers"] + spec.get("initContainers", [])
        ports = {p["name"]: p["containerPort"] for c in containers for p in c.get("ports", [])}
        pods.append((labels, ports))
        volumes = {v["name"]: v for v in spec["volumes"]}
        for volume in volumes.values():
            name = volume.get("configMap", {}).get("name")
            assert name is None or name in maps, f"{directory}: no ConfigMap {name}"
        for container in containers:
            assert all(m["name"] in volumes for m in container.get("volumeMounts", []))
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for probe in [v for k, v in container.items() if k.endswith("Probe")]:
                assert probe["httpGet"]["port"] in {p["name"] for p in container["ports"]}

    services = of_kind("Service")
    for service in services:
        (ports,) = [ports for labels, ports in pods if selects(service["spec"]["selector"], labels)]
        assert all(p["targetPort"] in ports for p in service["spec"]["ports"]), service["metadata"]["name"]
    for budget in of_kind("PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"]["matchLabels"], labels) for labels, _ in pods)
    for policy in of_kind("NetworkPolicy"):
        (ports,) = [p for labels, p in pods if selects(policy["spec"]["podSelector"]["matchLabels"], labels)]
        for rule in policy["spec"]["ingress"]:
            assert all(p["port"] in ports for p in rule["ports"]), f"{directory}: {rule}"
    for monitor in of_kind("ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [s for s in services if selects(selector, s["metadata"].get("labels", {}))]
        ports = {p["name"] for p in service["spec"]["ports"]}
        assert all(e["port"] in ports for e in monitor["spec"]["endpoints"])
    print(f"{directory.name}: {len(resources)} resources")


for argument in sys.argv[1:]:
    check(Path(argument))
