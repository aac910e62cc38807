"""The manifests: against facts about Kubernetes' fields, against KubeRay's CRDs where they are at hand, and against each other and the image."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deployment import facts, files

PAGE = files.HOME / "docs" / "deploy-kubernetes.md"
UNITS = {"Gi": 1 << 30}


@pytest.fixture(scope="module")
def crds(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The schema of each kind that KubeRay brings."""
    folder: Path | None = request.config.getoption("--crds")
    if folder is None:
        pytest.skip("needs KubeRay's CRDs: --crds FOLDER, helm-chart/kuberay-operator/crds of its repository")
    found = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        # By libyaml: they are large.
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        (version,) = (entry for entry in spec["versions"] if entry["name"] == "v1")
        found[spec["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    assert {"RayCluster", "RayJob"} <= set(found), f"{folder} has no CRDs of KubeRay"
    return found


@pytest.mark.parametrize("entry", files.manifests(), ids=lambda entry: f"{entry['kind']}-{entry['metadata']['name']}")
def test_fields_are_known_and_have_their_types(entry: dict[str, Any]) -> None:
    known = facts.OBJECTS[entry["apiVersion"], entry["kind"]]
    body = {name: value for name, value in entry.items() if name not in ("apiVersion", "kind")}
    assert list(facts.faults(body, known, entry["kind"])) == []


def test_faults_are_found() -> None:
    entry = files.manifest("RayCluster", "jacloom")
    body = copy.deepcopy({"metadata": entry["metadata"], "spec": entry["spec"]})
    group = body["spec"]["workerGroupSpecs"][1]
    del group["minReplicas"]
    group["maxReplicas"] = "4"
    group["rayStartParams"]["memory"] = 5
    group["template"]["spec"]["containers"][0]["volumes"] = []
    body["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = True
    assert sorted(facts.faults(body, facts.OBJECTS["ray.io/v1", "RayCluster"], "RayCluster")) == [
        "RayCluster.spec.headGroupSpec.template.spec.containers[0].ports[0].containerPort must be of type integer, got True",
        "RayCluster.spec.workerGroupSpecs[1] needs minReplicas",
        "RayCluster.spec.workerGroupSpecs[1].maxReplicas must be of type integer, got '4'",
        "RayCluster.spec.workerGroupSpecs[1].rayStartParams.memory must be of type string, got 5",
        "RayCluster.spec.workerGroupSpecs[1].template.spec.containers[0] has no field volumes",
    ]


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_manifests_keep_to_kuberays_crds(crds: dict[str, dict[str, Any]], kind: str) -> None:
    validator = jsonschema.Draft202012Validator(closed(crds[kind]))
    checked = [entry for entry in files.manifests() if entry["kind"] == kind]
    assert checked
    for entry in checked:
        assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(entry)] == []
    wrong = copy.deepcopy(checked[0])
    wrong["spec"]["unheardOf"] = 1
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize(("kind", "fact"), [("RayCluster", facts.CLUSTER), ("RayJob", facts.JOB)])
def test_facts_are_those_of_kuberays_crds(crds: dict[str, dict[str, Any]], kind: str, fact: dict[str, Any]) -> None:
    assert list(facts.differences(fact, crds[kind]["properties"]["spec"], kind)) == []


def closed(schema: Any) -> Any:
    """Returns a schema that refuses fields that it does not know: Kubernetes itself drops them in silence."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(inner) for name, inner in schema.items()}
    # A property may have the name "properties": only a schema has a type beside them.
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def test_ray_has_the_version_of_the_image() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (files.HOME / "constraints.txt").read_text(), re.MULTILINE)
    assert {spec["rayVersion"] for spec in files.clusters()} == {pinned}


def test_ray_asks_for_a_token_everywhere() -> None:
    assert all(spec["authOptions"] == {"mode": "token"} for spec in files.clusters())
    (server,) = files.manifest("Deployment", "jacloom-server")["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in server["env"]}
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    # The secret that the operator makes has the name of the cluster.
    cluster = files.manifest("RayCluster", "jacloom")["metadata"]["name"]
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": cluster, "key": "auth_token"}
    assert environment["HEAD_ADDRESS"]["value"] == f"{cluster}-head-svc:6379"


def test_groups_stay_within_their_bounds() -> None:
    for spec in files.clusters():
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            gpus = [container["resources"]["limits"].get("nvidia.com/gpu") for container in group["template"]["spec"]["containers"]]
            assert gpus == (["1"] if group["groupName"] == "gpu" else [None])


def test_nodes_leave_memory_for_what_ray_does_not_count() -> None:
    for spec in files.clusters():
        for group in spec["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            limit = size(container["resources"]["limits"]["memory"])
            counted = sum(int(group["rayStartParams"][name]) for name in ("memory", "object-store-memory"))
            cores = int(container["resources"]["limits"]["cpu"])
            # Half a gigabyte for the libraries of each worker: one a core, the wide one, the clerk.
            assert counted + (cores + 2) * 500_000_000 < limit


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize(("name", "pod"), files.pods(), ids=lambda value: value if isinstance(value, str) else "")
def test_pods_run_as_the_user_of_the_image_without_privileges(name: str, pod: dict[str, Any]) -> None:
    (uid,) = {int(found) for text in files.instructions("RUN") for found in re.findall(r"useradd .*--uid (\d+)", text)}
    context = pod["securityContext"]
    assert (context["runAsUser"], context["fsGroup"], context["runAsNonRoot"]) == (uid, uid, True)
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"], "the first pods to be evicted would be these"


@pytest.mark.parametrize(("name", "pod"), files.pods(), ids=lambda value: value if isinstance(value, str) else "")
def test_pods_mount_what_there_is(name: str, pod: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes)
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            files.manifest("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        if "configMap" in volume:
            files.manifest("ConfigMap", volume["configMap"]["name"])
        if "secret" in volume:
            # Those are not in any file, but the page says how to make them.
            assert re.search(rf"kubectl create secret (tls|generic) {volume['secret']['secretName']} ", PAGE.read_text())
    assert mounts["results"] == "/results", "the same place for the server and for all workers, which write there themselves"
    claim = files.manifest("PersistentVolumeClaim", volumes["results"]["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_service_finds_the_server() -> None:
    server, service = files.manifest("Deployment", "jacloom-server")["spec"], files.manifest("Service", "jacloom-server")["spec"]
    assert service["selector"] == server["selector"]["matchLabels"] == server["template"]["metadata"]["labels"]
    (container,) = server["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert {service["ports"][0]["targetPort"], *(container[f"{kind}Probe"]["tcpSocket"]["port"] for kind in ("startup", "liveness"))} == {
        port["name"]
    }


def test_a_server_has_the_time_to_drain() -> None:
    from jacloom_server.config import Config

    assert files.manifest("Deployment", "jacloom-server")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > Config().drain + 8


def test_kustomization_has_every_file_but_the_job() -> None:
    kustomization = yaml.safe_load((files.DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "job.yaml"} == {path.name for path in files.MANIFESTS}
    images = {container["image"].partition(":")[0] for _, pod in files.pods() for container in pod["containers"]}
    assert images == {entry["name"] for entry in kustomization["images"]}


@pytest.mark.parametrize(("status", "becomes"), [(0, 0), (3, 0), (75, 75), (1, 1)])
def test_a_job_with_failed_points_is_not_tried_on_another_cluster(tmp_path: Path, status: int, becomes: int) -> None:
    done = subprocess.run(["bash", "-c", script(tmp_path, f"exit {status}")], timeout=60)
    assert done.returncode == becomes


def test_a_job_is_run_by_rays_own_address(tmp_path: Path) -> None:
    text = script(tmp_path, 'echo "$@"')
    done = subprocess.run(["bash", "-c", text], env={"RAY_ADDRESS": "10.0.0.7:6379", "PATH": "/bin"}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["run", "/etc/jacloom/job/job.toml", "--data", "/data", "--results", "/results", "--ray-address", "10.0.0.7:6379"]
    assert done.returncode == 0


def script(folder: Path, jacloom: str) -> str:
    """Returns the script of the job, with a stand-in for the command."""
    (folder / "jacloom").write_text(f"#!/bin/bash\n{jacloom}\n")
    (folder / "jacloom").chmod(0o755)
    text: str = files.manifest("ConfigMap", "jacloom-job")["data"]["run.sh"]
    return f"set -u; export PATH={folder}:$PATH RAY_ADDRESS=${{RAY_ADDRESS:-}}\n{text}"


def test_the_entrypoint_of_a_job_means_the_same_to_every_shell() -> None:
    job = files.manifest("RayJob", "jacloom-job")["spec"]
    assert re.fullmatch(r"[\w ./-]+", job["entrypoint"]), "it goes through two more shells"
    (mount,) = (
        entry for entry in job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"] if entry["name"] == "job"
    )
    path = Path(job["entrypoint"].split()[-1])
    assert str(path.parent) == mount["mountPath"]
    assert path.name in files.manifest("ConfigMap", "jacloom-job")["data"]
