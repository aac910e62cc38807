"""Every Python snippet of the documentation runs as a reader would type it, and prints what the page shows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jacloom as jl

HOME = Path(__file__).resolve().parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<shown>.*?)^```$)?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Snippet:
    line: int
    code: str
    shown: str | None
    """What a ```text block right below says is printed; None where there is no such block."""


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text()
    return [Snippet(text[: match.start("code")].count("\n") + 1, match["code"], match["shown"]) for match in BLOCK.finditer(text)]


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """Keeps the local service up, so that every page's own ``jl.connect()`` finds it running."""
    with jl.connect():
        yield


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_snippets(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        for snippet in snippets(page):
            printed = io.StringIO()
            # Empty lines in front, so that a traceback names the line of the page.
            program = compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec", dont_inherit=True)
            with redirect_stdout(printed):
                exec(program, names)
            if snippet.shown is not None:
                assert printed.getvalue() == snippet.shown, f"{page.name}:{snippet.line} prints something else"
    finally:
        if "client" in names:
            names["client"].close()


def test_pages_have_snippets() -> None:
    assert {page.name for page in PAGES if snippets(page)} >= {"README.md", "concepts.md", "custom-rules.md"}


@pytest.mark.parametrize("page", [*PAGES, HOME / "CONTRIBUTING.md", HOME / "deploy" / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [match["target"] for match in LINK.finditer(page.read_text())]
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing, missing
