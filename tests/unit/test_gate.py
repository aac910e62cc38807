"""Which tokens a file of tokens has."""

from __future__ import annotations

from pathlib import Path

import pytest

from jacloom_server.config import ConfigError
from jacloom_server.edges.gate import read_tokens


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_comments_and_blank_lines_are_no_tokens(tmp_path: Path) -> None:
    text = "# ours\nfirst\n\n  # a note, indented\n\t#another\n  second  \nthird # is part of it\n"
    assert read_tokens(written(tmp_path / "tokens", text)) == ["first", "second", "third # is part of it"]


def test_a_file_without_tokens_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no tokens: write one a line"):
        read_tokens(written(tmp_path / "tokens", "\n   # only a note\n"))
    with pytest.raises(ConfigError, match="cannot read the tokens"):
        read_tokens(tmp_path / "none")


def test_tokens_that_cannot_travel_are_refused_by_their_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens, line 3: a token travels in an HTTP header") as caught:
        read_tokens(written(tmp_path / "tokens", "# zwölf\nfirst\nzwölf\n"))
    assert "zwölf" not in str(caught.value), "what is secret is not repeated"
    (tmp_path / "latin").write_bytes("first\nzwölf\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin must be text in UTF-8, got the byte 0xf6 in line 2"):
        read_tokens(tmp_path / "latin")
