"""The manifests and the Helm chart: rendered by kubectl and by Helm, and valid for Kubernetes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mirror import __version__

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "hubmirror"
COMPONENTS = ["node-cache", "monitoring", "token", "admission", "kserve"]
ALL: dict[str, Any] = {
    "token": {"existingSecret": "hubmirror-token"},
    **{name: {"enabled": True} for name in ("nodeCache", "monitoring", "admission", "kserve")},
}
FOREIGN = {"ServiceMonitor", "ClusterStorageContainer"}
"""Kinds that Kubernetes itself does not have; their schemas are not checked here."""

Objects = dict[tuple[str, str], dict[str, Any]]


def kustomized(folder: Path) -> Objects:
    """What `kubectl apply --kustomize` would send."""
    command = [str(Path(sys.executable).parent / "kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def rendered(
    values: dict[str, Any], name: str = "hubmirror", namespace: str = "hubmirror"
) -> Objects:
    """What `helm template` prints, by Helm's own engine."""
    helm = pytest.importorskip("helm_python", reason="there is no wheel of Helm for this machine")
    with helm.Chart.load(CHART) as chart:
        return objects(*chart.render(values, name=name, namespace=namespace).values())


def objects(*texts: str) -> Objects:
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def check(found: Objects) -> None:
    for (kind, _), one in found.items():
        if kind not in FOREIGN:
            kubernetes_validate.validate(one, "1.37", strict=True)


def test_everything_is_valid() -> None:
    found = kustomized(DEPLOY / "kubernetes" / "site")
    check(found)
    kinds = {kind for kind, _ in found}
    assert kinds >= FOREIGN | {"DaemonSet", "Deployment", "MutatingAdmissionPolicy"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_can_be_used_alone(component: str, tmp_path: Path) -> None:
    kubernetes = tmp_path / "kubernetes"
    kubernetes.symlink_to(DEPLOY / "kubernetes")
    alone = tmp_path / "alone"
    alone.mkdir()
    names = {"resources": ["../kubernetes/mirror"], "components": [f"../kubernetes/{component}"]}
    (alone / "kustomization.yaml").write_text(yaml.safe_dump(names))
    check(kustomized(alone))


def test_the_chart_is_the_same_as_the_manifests() -> None:
    assert rendered(ALL) == kustomized(DEPLOY / "kubernetes" / "site")
    assert rendered({}) == kustomized(DEPLOY / "kubernetes" / "mirror")


def test_two_releases_share_no_name() -> None:
    one = rendered(ALL)
    two = rendered(ALL, "second", "other")
    check(two)
    assert not set(one) & set(two)
    endpoint = two["ConfigMap", "second-endpoint"]["data"]["HF_ENDPOINT"]
    assert endpoint == "http://second-node.other.svc:8400"


def test_the_values_of_the_chart_are_used() -> None:
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    values = {
        **ALL,
        "image": "registry.site/hubmirror:slim",
        "env": {"HUBMIRROR_LOG_FORMAT": "json"},
        "nodeSelector": {"disk": "fast"},
        "volume": {"existingClaim": "models"},
        "nodeCache": {"enabled": True, "path": "/nvme", "size": "2T", "tolerations": tolerations},
    }
    found = rendered(values)
    check(found)
    assert ("PersistentVolumeClaim", "hubmirror-data") not in found
    mirror = found["Deployment", "hubmirror"]["spec"]["template"]["spec"]
    cache = found["DaemonSet", "hubmirror-node"]["spec"]["template"]["spec"]
    assert mirror["nodeSelector"] == {"disk": "fast"}
    assert mirror["volumes"][1]["persistentVolumeClaim"]["claimName"] == "models"
    assert {"name": "HUBMIRROR_LOG_FORMAT", "value": "json"} in mirror["containers"][0]["env"]
    assert "--cache-size=2T" in cache["containers"][0]["args"]
    assert cache["tolerations"] == tolerations
    assert cache["volumes"][1]["hostPath"]["path"] == "/nvme"
    images = {one["image"] for pod in (mirror, cache) for one in pod["containers"]}
    assert images == {"registry.site/hubmirror:slim"}


@pytest.mark.parametrize(
    "values", [{"replica": 2}, {"nodeCache": {"path": "relative"}}, {"replicas": 0}]
)
def test_a_wrong_value_is_refused(values: dict[str, Any]) -> None:
    helm = pytest.importorskip("helm_python", reason="there is no wheel of Helm for this machine")
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError):
        chart.validate_schema(values)


def test_helm_finds_no_fault_in_the_chart() -> None:
    helm = pytest.importorskip("helm_python", reason="there is no wheel of Helm for this machine")
    report = helm.lint(CHART, strict=True)
    assert not report["errors"], report
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
