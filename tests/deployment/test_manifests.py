"""The Kubernetes manifests, against the schemas of Kubernetes and of KubeRay.

KubeRay's rules in CEL are not evaluated; our manifests set nothing that has one.
"""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import indexer.commands.main
from indexer.cluster.placement import Placement
from indexer.commands.command import command_line, load
from indexer.settings import Settings
from tests.support import kuberay

ROOT = Path(__file__).parents[2]

FOLDER = ROOT / "configs" / "kubernetes"

VERSION = "1.34"

OURS = {"rayjob.yaml", "raycluster.yaml"}


def documents(*names: str) -> Iterator[dict[str, Any]]:
    for name in names or sorted(path.name for path in FOLDER.glob("*.yaml")):
        yield from yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))


def pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod of KubeRay's resources."""
    for resource in documents(*sorted(OURS)):
        cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
        groups = [("head", cluster["headGroupSpec"])]
        groups += [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
        yield from ((f"{resource['kind']} {name}", group["template"]) for name, group in groups)


def test_what_kubernetes_knows_is_valid() -> None:
    names = {path.name for path in FOLDER.glob("*.yaml")} - OURS - {"kustomization.yaml"}
    found = list(documents(*sorted(names)))
    assert {resource["kind"] for resource in found} == {
        *("CronJob", "Namespace", "PersistentVolumeClaim", "Role", "RoleBinding", "Secret", "ServiceAccount")
    }
    for resource in found:
        kubernetes_validate.validate(resource, VERSION, strict=True)


@pytest.mark.parametrize(("name", "template"), list(pod_templates()), ids=[name for name, _ in pod_templates()])
def test_pods_of_ray_are_valid(name: str, template: dict[str, Any]) -> None:
    described = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": template}
    kubernetes_validate.validate(described, VERSION, strict=True)
    broken = {**template, "spec": {**template["spec"], "tolerationz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**described, "template": broken}, VERSION, strict=True)
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert [one["securityContext"]["allowPrivilegeEscalation"] for one in spec["containers"]] == [False]
    mounted = {mount["name"] for one in spec["containers"] for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}, name


@pytest.mark.parametrize("version", kuberay.VERSIONS)
@pytest.mark.parametrize("file", sorted(OURS))
def test_what_kuberay_knows_is_valid(file: str, version: str) -> None:
    (resource,) = documents(file)
    schema = kuberay.schemas()[version][resource["kind"]]
    jsonschema.validate(resource, schema)
    named = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource["metadata"]}
    kubernetes_validate.validate(named, VERSION, strict=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda spec: spec | {"rayVersions": "2"}, "rayVersions"),
        (lambda spec: spec | {"authOptions": {"mode": "tokens"}}, "'tokens' is not one of"),
        (lambda spec: spec | {"workerGroupSpecs": [spec["workerGroupSpecs"][0] | {"maxReplicas": "2"}]}, "'2' is not"),
        (lambda spec: spec | {"workerGroupSpecs": [spec["workerGroupSpecs"][0] | {"minReplica": 2}]}, "minReplica"),
        (lambda spec: {name: value for name, value in spec.items() if name != "headGroupSpec"}, "headGroupSpec"),
    ],
)
def test_what_kuberay_would_refuse_is_refused(change: Callable[[dict[str, Any]], dict[str, Any]], reason: str) -> None:
    (cluster,) = documents("raycluster.yaml")
    (job,) = documents("rayjob.yaml")
    spoiled = job["spec"] | {"rayClusterSpec": change(job["spec"]["rayClusterSpec"])}
    for resource in (cluster | {"spec": change(cluster["spec"])}, job | {"spec": spoiled}):
        for kinds in kuberay.schemas().values():
            with pytest.raises(jsonschema.ValidationError, match=reason):
                jsonschema.validate(resource, kinds[resource["kind"]])


def test_the_run_has_its_settings_and_its_version() -> None:
    (job,) = documents("rayjob.yaml")
    program, command, flag, path = shlex.split(job["spec"]["entrypoint"])
    assert (program, flag, path) == ("qwen3-index", "--config", "/etc/indexer/index.toml")
    assert command in indexer.commands.main.COMMANDS
    settings = load(Settings, command_line(""), ["--config", str(FOLDER / "index.toml")])[0]
    assert settings.run.progress == "lines"
    lock = (ROOT / "requirements-cuda.lock").read_text(encoding="utf-8")
    for resource in documents(*sorted(OURS)):
        cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
        assert f"\nray=={cluster['rayVersion']} " in lock
        assert cluster["authOptions"] == {"mode": "token"}
        (group,) = cluster["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        assert int(container["resources"]["requests"]["cpu"]) >= settings.cluster.cpus_per_worker


def test_engines_wait_for_a_gpu_machine_and_never_take_the_head() -> None:
    """The cluster that scales from zero has a head of two cores when a run begins."""
    settings = load(Settings, command_line(""), ["--config", str(FOLDER / "index.toml")])[0]
    assert settings.cluster.wait_minutes > 0
    placement = Placement(settings.cluster, settings.engine.replicas_per_gpu, gpus=settings.cluster.device == "gpu")
    (asked,) = placement.bundles(1)
    for name, template in pod_templates():
        (container,) = template["spec"]["containers"]
        resources = container["resources"]
        has = {"CPU": float(resources["requests"]["cpu"]), "GPU": float(resources["limits"].get("nvidia.com/gpu", 0))}
        assert all(has[kind] >= least for kind, least in asked.items()) == ("head" not in name), name


def test_spot_nodes_take_workers_and_no_head() -> None:
    for name, template in pod_templates():
        tolerated = {one["key"] for one in template["spec"].get("tolerations", [])}
        assert ({"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated) == (
            "head" not in name
        )


def test_a_drained_head_stops_the_run_that_it_has() -> None:
    """The pattern of preStop finds the command of the manifest and of the schedulers, and not its own shell."""
    (job,) = documents("rayjob.yaml")
    commands = [job["spec"]["entrypoint"]]
    for name in ("airflow_dag.py", "dagster_job.py"):
        text = (ROOT / "configs" / "schedulers" / name).read_text(encoding="utf-8")
        commands.append(" ".join(ast.literal_eval(re.findall(r"^COMMAND = (.*)$", text, re.MULTILINE)[0])))
    for name, template in pod_templates():
        (container,) = template["spec"]["containers"]
        if "head" in name:
            *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
            stopped, awaited = re.findall(r"-f '([^']+)'", script)
            assert stopped == awaited
            assert [bool(re.search(stopped, command)) for command in commands] == [True] * 3
            assert not re.search(stopped, " ".join([*shell, script])), "it would wait for itself"


def test_weights_and_compiled_models_are_kept_in_the_shared_volume() -> None:
    for name, template in pod_templates():
        for container in template["spec"]["containers"]:
            variables = {one["name"]: one["value"] for one in container.get("env", [])}
            if "HF_HOME" in variables:
                (volume,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "models"]
                assert variables["HF_HOME"] == volume, name
                assert Path(variables["VLLM_CACHE_ROOT"]).parent == Path(volume), name


def test_names_that_point_elsewhere_exist() -> None:
    (kustomization,) = documents("kustomization.yaml")
    maps = {one["name"]: one["files"] for one in kustomization["configMapGenerator"]}
    files = [*kustomization["resources"], *(file for names in maps.values() for file in names)]
    assert [file for file in files if not (FOLDER / file).is_file()] == []
    (secret,) = documents("secret.example.yaml")
    claims = [one["metadata"]["name"] for one in documents("base.yaml") if one["kind"] == "PersistentVolumeClaim"]
    for _, template in pod_templates():
        for volume in template["spec"]["volumes"]:
            assert volume.get("configMap", {"name": "indexer"})["name"] in maps
            assert volume.get("persistentVolumeClaim", {"claimName": "models"})["claimName"] in claims
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    cron = next(one for one in documents("cronjob.yaml") if one["kind"] == "CronJob")
    spec = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["command"][-1] == f"--filename=/rayjob/{maps['rayjob'][0]}"
    assert spec["volumes"][0]["configMap"]["name"] == "rayjob"
    assert set(secret["stringData"].values()) == {"replace-me"}, "no secret is committed"
