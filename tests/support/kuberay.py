"""KubeRay's schemas of RayJob and RayCluster: data of another project, reduced to what our manifests are checked by.

``python -m tests.support.kuberay CHECKOUT`` writes :data:`FILE` anew from a git checkout of ray-project/kuberay.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[1] / "deployment" / "kuberay.json"

VERSIONS = ("1.5.1", "1.7.0")
"""Releases of KubeRay: the oldest that configs/kubernetes names, and the newest of 2026-11."""

KINDS = ("RayCluster", "RayJob")

HEADER = {
    "source": "https://github.com/ray-project/kuberay, ray-operator/config/crd/bases",
    "licence": "Apache-2.0",
    "changes": (
        "by tests/support/kuberay.py: v1 alone, without status, descriptions and rules in CEL; types of Kubernetes, a "
        "pod template for example, keep their type and lose their content"
    ),
}

OF_KUBERNETES = {
    *("egressRules", "env", "envFrom", "headService", "ingressRules", "resizePolicy", "securityContext"),
    *("submitterPodTemplate", "template", "valueFrom", "volumeMounts", "volumes"),
}
"""Properties whose types are Kubernetes' own: its schemas, which kubernetes_validate has, check them."""

DROPPED = {"default", "description", "status"}

Schema = dict[str, Any]


def schemas() -> dict[str, dict[str, Schema]]:
    """JSON schema by version and kind, in which an unknown key is an error."""
    found: dict[str, dict[str, Schema]] = json.loads(FILE.read_text(encoding="utf-8"))["versions"]
    return found


def _strict(schema: Schema) -> Schema:
    """A schema of OpenAPI, reduced, that refuses keys it does not name, as ``kubectl --validate=strict`` does."""
    kept = {name: value for name, value in schema.items() if name not in DROPPED and not name.startswith("x-")}
    if "items" in kept:
        kept["items"] = _strict(kept["items"])
    if isinstance(kept.get("additionalProperties"), dict):
        kept["additionalProperties"] = _strict(kept["additionalProperties"])
    if "properties" in kept:
        properties = {name: value for name, value in kept["properties"].items() if name not in DROPPED}
        kept["properties"] = {
            name: {"type": value["type"]} if name in OF_KUBERNETES else _strict(value)
            for name, value in properties.items()
        }
        kept.setdefault("additionalProperties", False)
    return kept


def _definition(checkout: str, version: str, kind: str) -> Schema:
    """The schema of version v1 of a kind."""
    path = f"v{version}:ray-operator/config/crd/bases/ray.io_{kind.lower()}s.yaml"
    shown = subprocess.run(["git", "-C", checkout, "show", path], capture_output=True, check=True)  # noqa: S607
    versions = yaml.load(shown.stdout, yaml.CSafeLoader)["spec"]["versions"]
    (found,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    return _strict(found)


if __name__ == "__main__":
    written = {version: {kind: _definition(sys.argv[1], version, kind) for kind in KINDS} for version in VERSIONS}
    FILE.write_text(json.dumps(HEADER | {"versions": written}, separators=(",", ":")) + "\n", encoding="utf-8")
