"""The examples, run as their README says. Each asserts that it agrees with JAX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.stem)
def test_example(script: Path) -> None:
    ran = subprocess.run([sys.executable, script], cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("equal to JAX on this machine\n")
    assert "Warning" not in ran.stderr


def test_the_readme_lists_them_all() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"[{script.name}]({script.name})" in listed for script in EXAMPLES.glob("*.py"))
