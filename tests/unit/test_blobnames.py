"""Names of blobs."""

from __future__ import annotations

import pytest

from jacloom_graph.blobnames import by_digest, digest_of, is_digest, is_name, new_lease

DIGEST = "0a" * 32


def test_the_digest_is_in_the_name() -> None:
    assert by_digest(DIGEST) == f"blobs/sha256:{DIGEST}"
    assert digest_of(by_digest(DIGEST)) == DIGEST
    assert is_name(by_digest(DIGEST))


def test_leases_have_names_of_their_own() -> None:
    first, second = new_lease(), new_lease()
    assert first != second
    assert is_name(first)
    assert digest_of(first) is None


@pytest.mark.parametrize(
    "text", ["", "blobs/", DIGEST, f"blobs/sha256:{DIGEST.upper()}", f"blobs/sha256:{DIGEST}\n", f"blobs/{DIGEST}", "blobs/../" + "0" * 29]
)
def test_nothing_else_is_a_name(text: str) -> None:
    assert not is_name(text)


def test_digests_are_lower_case_and_whole() -> None:
    assert is_digest(DIGEST)
    assert not is_digest(DIGEST.upper())
    assert not is_digest(DIGEST[1:])
    assert not is_digest(DIGEST + "\n")
