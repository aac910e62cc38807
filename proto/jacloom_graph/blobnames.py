"""Resource names of blobs: constants by the digest of their content, a call's arrays by a name of their own."""

from __future__ import annotations

import re
import secrets
from typing import Final

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BY_DIGEST: Final = re.compile(r"blobs/sha256:([0-9a-f]{64})", re.ASCII)
_LEASED: Final = re.compile(r"blobs/[0-9a-f]{32}", re.ASCII)


def by_digest(digest: str) -> str:
    """Returns the name of the blob whose content has a SHA-256 digest, given as 64 hex digits."""
    return f"blobs/sha256:{digest}"


def new_lease() -> str:
    """Returns a new name for a leased blob, which nobody can guess."""
    return f"blobs/{secrets.token_hex(16)}"


def digest_of(name: str) -> str | None:
    """Returns the 64 hex digits in the name of a blob kept by digest; None for any other text."""
    found = _BY_DIGEST.fullmatch(name)
    return found[1] if found else None


def is_digest(text: str) -> bool:
    """Returns whether a text is a SHA-256 digest as names have it: 64 hex digits in lower case."""
    return _DIGEST.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Returns whether a text has the form of a blob's name."""
    return digest_of(text) is not None or _LEASED.fullmatch(text) is not None
