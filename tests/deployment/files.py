"""The files under ``deploy/`` and the pages, as text and as YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).resolve().parents[2]
DEPLOY = HOME / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
SCRIPTS = sorted(path for path in (DEPLOY / "slurm").iterdir() if path.suffix in (".sh", ".sbatch"))
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", DEPLOY / "README.md", *sorted((HOME / "docs").glob("*.md"))]
TEXTS = [DOCKERFILE, COMPOSE, DEPLOY / "docker" / "health.py", *MANIFESTS, *SCRIPTS, *PAGES]


def name(path: Path) -> str:
    """Returns a file's name for the id of a test."""
    return str(path.relative_to(HOME))


def instructions(word: str) -> list[str]:
    """Returns what follows an instruction in the Dockerfile, continued lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^(?:HEALTHCHECK .*)?{word} (.*)$", text, re.MULTILINE)


def compose() -> dict[str, Any]:
    """Returns the compose file."""
    whole: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return whole


def manifests() -> list[dict[str, Any]]:
    """Returns all Kubernetes objects."""
    return [entry for path in MANIFESTS for entry in yaml.safe_load_all(path.read_text())]


def manifest(kind: str, named: str) -> dict[str, Any]:
    """Returns one of them."""
    (found,) = (entry for entry in manifests() if (entry["kind"], entry["metadata"]["name"]) == (kind, named))
    return found


def clusters() -> list[dict[str, Any]]:
    """Returns the specifications of Ray clusters, those of jobs too."""
    found = [entry["spec"] for entry in manifests() if entry["kind"] in ("RayCluster", "RayJob")]
    return [spec.get("rayClusterSpec", spec) for spec in found]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Returns the pods that the manifests make, with a name for each."""
    found = [(entry["metadata"]["name"], entry["spec"]["template"]["spec"]) for entry in manifests() if entry["kind"] == "Deployment"]
    for spec in clusters():
        found.append(("head", spec["headGroupSpec"]["template"]["spec"]))
        found += [(group["groupName"], group["template"]["spec"]) for group in spec["workerGroupSpecs"]]
    return found
