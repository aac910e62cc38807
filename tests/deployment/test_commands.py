"""What the files under ``deploy/`` and the pages tell people and machines to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ray
from deployment import commands, files

from jacloom_server import __main__ as server
from jacloom_server import environment
from jacloom_server.config import Config, from_mapping

SLURM = {"SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_CPUS_PER_TASK", "SLURM_NODEID", "SLURM_MEM_PER_NODE", "SLURM_SUBMIT_DIR"}
"""Of Slurm's variables those that the scripts read: names from sbatch's and srun's manuals."""


@pytest.mark.parametrize("path", files.TEXTS, ids=files.name)
def test_every_option_that_is_used_exists(path: Path) -> None:
    for use in commands.uses(path.read_text()):
        known = commands.flags(use.command)
        assert use.flags <= known, f"{use.command} has no {use.flags - known}"


def test_uses_are_found() -> None:
    text = """`jacloom serve --wide`; jacloom functions show x --json
    ray job submit --address a -- ray start \\\n  --head | jacloom doctor --nope
    the jacloom package --other, in /opt/jacloom serve --not"""
    assert [(use.command, sorted(use.flags)) for use in commands.uses(text)] == [
        ("jacloom serve", ["--wide"]),
        ("jacloom functions show", ["--json"]),
        ("ray job submit", ["--address"]),
        ("ray start", ["--head"]),
        ("jacloom doctor", ["--nope"]),
    ]


def test_the_nodes_of_slurm_start_with_options_of_ray() -> None:
    used = set(re.findall(r"--[a-z-]+", (files.DEPLOY / "slurm" / "node.sh").read_text()))
    assert {"--head", "--address", "--node-ip-address"} <= used <= commands.flags("ray start")


def test_parameters_of_ray_nodes_under_kuberay_are_options_of_ray() -> None:
    for spec in files.clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert {f"--{name}" for name in group["rayStartParams"]} <= commands.flags("ray start")


def settings(words: list[str]) -> Config:
    """Returns what the server makes of its command line."""
    parsed = vars(server._parser().parse_args(words))
    return from_mapping(
        {name: value for name, value in parsed.items() if value is not None and name not in ("log", "parent", "no_supervise", "config")}
    )


def test_the_service_of_compose_has_settings_that_can_be() -> None:
    program, *words = files.compose()["services"]["jacloom"]["command"]
    config = settings(words)
    assert program == "serve"
    assert not config.insecure
    assert config.tls_cert
    assert config.token_file
    assert config.data == Path("/data")


def test_the_service_of_kubernetes_has_settings_that_can_be() -> None:
    (container,) = files.manifest("Deployment", "jacloom-server")["spec"]["template"]["spec"]["containers"]
    (line,) = re.findall(r"exec jacloom serve(.*)", container["args"][0].replace("\\\n", " "))
    words = line.split()
    index = words.index("--results")
    head = {entry["name"]: entry.get("value") for entry in container["env"]}["HEAD_ADDRESS"]
    config = settings([word.replace('"$HEAD_ADDRESS"', head) for word in words[:index] + words[index + 2 :]])
    assert not config.insecure
    assert config.ray_address == "jacloom-head-svc:6379"
    assert config.data == Path("/data")


def test_the_image_serves_on_loopback_unless_told_otherwise() -> None:
    (entry,), (given,) = files.instructions("ENTRYPOINT"), [text for text in files.instructions("CMD") if "health" not in text]
    program, command, *words = re.findall(r'"([^"]*)"', entry + given)
    assert (program, command) == ("jacloom", "serve")
    assert settings(words).address == Config().address


def test_links_lead_somewhere() -> None:
    page = files.DEPLOY / "README.md"
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert {"deploy-docker.md", "deploy-kubernetes.md", "deploy-slurm.md"} <= {Path(target).name for target in targets}
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("path", files.TEXTS, ids=files.name)
def test_every_variable_of_the_environment_is_read_by_somebody(path: Path) -> None:
    text = path.read_text()
    sources = "".join(source.read_text() for room in ("client", "server", "worker") for source in (files.HOME / room).rglob("*.py"))
    scripts = "".join(script.read_text() for script in files.SCRIPTS)
    for name in set(re.findall(r"\bJACLOOM_[A-Z_]+\b", text)):
        read = f'"{name}"' in sources or f"${{{name}:-" in scripts or f'"{name}"' in (files.DEPLOY / "docker" / "health.py").read_text()
        assert read, f"nobody reads {name}"
    assert set(re.findall(r"\bSLURM_[A-Z_]+\b", text)) <= SLURM
    compiled = (Path(ray.__file__).parent / "_raylet.so").read_bytes()
    python = "".join(source.read_text() for source in (Path(ray.__file__).parent / "dashboard" / "modules" / "job").glob("*.py"))
    for name in set(re.findall(r"\bRAY_[A-Za-z_]+\b", text)) - set(environment._SETTINGS) - {"RAY_ADDRESS"}:
        assert name.encode() in compiled or f'"{name}"' in python, f"Ray does not read {name}"


def test_ports_are_the_servers_own() -> None:
    port = Config().address.rpartition(":")[2]
    assert files.instructions("EXPOSE") == [port]
    assert files.compose()["services"]["jacloom"]["ports"] == [f"{port}:{port}"]
    (service,) = files.manifest("Service", "jacloom-server")["spec"]["ports"]
    (container,) = files.manifest("Deployment", "jacloom-server")["spec"]["template"]["spec"]["containers"]
    assert {str(service["port"])} == {str(entry["containerPort"]) for entry in container["ports"]} == {port}
