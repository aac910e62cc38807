"""The image and the compose file: what they name exists, and they fit together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from deployment import files
from deployment.allocation import free_port

from jacloom_server import environment

HEALTH = files.DEPLOY / "docker" / "health.py"


def copied() -> set[str]:
    """Returns what the image takes from the repository."""
    return {source for text in files.instructions("COPY") if "--from" not in text for source in text.split()[:-1]}


def test_the_image_copies_what_the_context_has() -> None:
    allowed = {line[1:].rstrip("/") for line in (files.HOME / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied() == allowed
    assert all((files.HOME / source).exists() for source in copied())


def test_everything_is_installed_by_the_pinned_versions() -> None:
    installs = [text for text in files.instructions("RUN") if "pip install" in text]
    assert len(installs) == 2
    for text in installs:
        assert set(re.findall(r"--constraint (\S+)", text)) == {"constraints.txt", "constraints-cuda.txt"}
    extras = tomllib.loads((files.HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (used,) = re.findall(r'"\.\[(.*)\]"', installs[1])
    assert set(used.split(",")) == {"server", "cluster"} <= set(extras)


def test_versions_for_gpus_are_those_of_the_versions_for_all() -> None:
    def pins(path: str) -> dict[str, str]:
        lines = (files.HOME / path).read_text().splitlines()
        return dict(line.split("==") for line in lines if not line.startswith("#"))

    everywhere, cuda = pins("constraints.txt"), pins("deploy/docker/constraints-cuda.txt")
    assert not set(everywhere) & set(cuda)
    assert {version for name, version in cuda.items() if name.startswith("jax-cuda")} == {everywhere["jaxlib"]}
    for kind in ("12", "13"):
        assert {f"jax-cuda{kind}-plugin", f"jax-cuda{kind}-pjrt"} <= set(cuda)


def test_the_image_has_rays_settings_of_the_server() -> None:
    words = " ".join(files.instructions("ENV")).split()
    found = dict(word.split("=", 1) for word in words if word.startswith("RAY_"))
    assert found == {name: value for name, value in environment._SETTINGS.items() if name.startswith("RAY_")}


def test_the_image_does_not_run_as_root() -> None:
    assert files.instructions("USER") == ["jacloom"]
    (made,) = (text for text in files.instructions("RUN") if "useradd" in text)
    assert re.search(r"useradd .* jacloom && install -d -o jacloom -g jacloom /data /results", made)


def test_compose_mounts_what_it_names() -> None:
    whole = files.compose()
    one = whole["services"]["jacloom"]
    text = " ".join([*one["command"], *one["environment"].values()])
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(whole["secrets"]) == set(one["secrets"])
    mounts = dict(volume.split(":") for volume in one["volumes"])
    assert set(mounts) == set(whole["volumes"])
    assert {f"--{name}={place}" for name, place in mounts.items()} <= set(one["command"])
    (made,) = (text for text in files.instructions("RUN") if "install -d" in text)
    assert set(mounts.values()) == {word for word in made.split() if re.fullmatch("/data|/results", word)}


def test_compose_builds_from_the_repository() -> None:
    build = files.compose()["services"]["jacloom"]["build"]
    context = (files.COMPOSE.parent / build["context"]).resolve()
    assert context == files.HOME
    assert context / build["dockerfile"] == files.DOCKERFILE


def test_compose_gives_the_server_time_to_drain() -> None:
    from jacloom_server.config import Config

    text = files.compose()["services"]["jacloom"]["stop_grace_period"]
    assert int(text.removesuffix("s")) > Config().drain + 8


@pytest.mark.parametrize("path", [files.COMPOSE, *files.MANIFESTS], ids=files.name)
def test_images_are_named_without_a_registry(path: Path) -> None:
    images = re.findall(r"image: (\S+)", path.read_text())
    assert all(re.fullmatch(r"jacloom:(cpu|cuda)", image) for image in images)


def health(address: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "JACLOOM_ADDRESS": address}
    return subprocess.run([sys.executable, HEALTH], env=settings, capture_output=True, text=True, timeout=60)


def test_the_health_check_fails_where_nobody_answers() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = health(address)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{address} does not answer: UNAVAILABLE"
