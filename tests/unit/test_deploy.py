"""What the files under deploy/ and the pages tell people to type exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HOME = Path(__file__).resolve().parents[2]
DEPLOY = HOME / "deploy"
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", DEPLOY / "README.md", *sorted((HOME / "docs").glob("*.md"))]
FLAG = re.compile(r"--[a-z][a-z-]*")
SERVE = re.compile(r"jacloom serve((?:[^\n`|]|\\\n)*)")


@pytest.fixture(scope="module")
def serve_flags() -> set[str]:
    done = subprocess.run([sys.executable, "-m", "jacloom", "serve", "--help"], capture_output=True, text=True, timeout=60, check=True)
    return set(FLAG.findall(done.stdout))


def compose() -> dict[str, object]:
    service: dict[str, object] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["jacloom"]
    return service


def test_compose_flags(serve_flags: set[str]) -> None:
    command = compose()["command"]
    assert isinstance(command, list)
    used = {word.partition("=")[0] for word in command}
    assert {"--tls-cert", "--tls-key", "--token-file"} <= used, "a service that others can reach needs all three"
    assert used <= serve_flags


def test_image_flags(serve_flags: set[str]) -> None:
    (command,) = re.findall(r"^CMD \[(.*)\]$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert set(FLAG.findall(command)) <= serve_flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_pages_flags(page: Path, serve_flags: set[str]) -> None:
    for arguments in SERVE.findall(page.read_text()):
        assert set(FLAG.findall(arguments)) <= serve_flags | {"--help"}


def test_compose_mounts_what_it_names() -> None:
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    text = shlex.join(compose()["command"])  # type: ignore[arg-type]  # a list of strings, as above
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(whole["secrets"]) == set(whole["services"]["jacloom"]["secrets"])


def test_image_copies_what_the_context_has() -> None:
    allowed = {line[1:].rstrip("/") for line in (HOME / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((HOME / source).exists() for source in copied)
