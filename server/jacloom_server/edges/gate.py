"""What every call passes first: its token, and whether there is room for it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from jacloom_graph.errors import Fault, Reason
from jacloom_server.config import ConfigError, not_text
from jacloom_server.edges.handlers import Continuation, Handler, replaced
from jacloom_server.status import abort

_LOG = logging.getLogger(__name__)

_OPEN: Final = ("/grpc.health.v1.Health/",)
"""Answered to anyone at any time: whoever watches over the server has no token, and must hear from it most of all when it is full."""


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls without a valid token, calls beyond the limit, and calls while the server drains."""

    def __init__(self, tokens: Sequence[str], calls: int) -> None:
        """Opens the gate.

        Args:
            tokens: Accepted bearer tokens; empty for no authentication.
            calls: Calls that may be under way at once.
        """
        self._tokens = [token.encode() for token in tokens]
        self._calls = calls
        self._under_way = 0
        self._draining = False

    def drain(self) -> None:
        """Refuses every new call from now on."""
        self._draining = True

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler:
        """Lets a call pass, or puts a refusal in the place of its handler."""
        handler = await continuation(details)
        # The stubs do not say so, but there is no handler for a method that nobody serves.
        if not handler or details.method.startswith(_OPEN):
            return handler
        fault = self._refusal(details)
        return self._counted(handler) if fault is None else _refuse(handler, fault)

    def _refusal(self, details: grpc.HandlerCallDetails) -> Fault | None:
        if self._tokens and not self._valid(details):
            given = any(key == "authorization" for key, _ in details.invocation_metadata or ())
            problem = "this service does not know the token that was sent" if given else "this service needs a token"
            text = f"{problem}: send the metadata `authorization: Bearer <token>` with one of its tokens, in the SDK `connect(..., token=...)`"
            return Fault(Reason.UNAUTHENTICATED, text)
        if self._draining:
            return Fault(Reason.DRAINING, "the service is shutting down; try again in a while")
        if self._under_way >= self._calls:
            return Fault(Reason.OVER_QUOTA, f"{self._calls} calls are under way, which is the limit; try again in a moment")
        return None

    def _valid(self, details: grpc.HandlerCallDetails) -> bool:
        given = next((value for key, value in details.invocation_metadata or () if key == "authorization"), "")
        scheme, _, token = (given if isinstance(given, str) else given.decode("latin-1")).partition(" ")
        # Every token is compared, each in constant time, so that timing tells nothing about them.
        matches = [hmac.compare_digest(token.encode("utf-8", "surrogateescape"), accepted) for accepted in self._tokens]
        return scheme.lower() == "bearer" and any(matches)

    def _counted(self, handler: Handler) -> Handler:
        """Returns a handler that counts as a call under way while it runs."""
        if handler.request_streaming and handler.response_streaming:
            # Reflection, which is a generator and costs nothing.
            return handler

        def counted(behaviour: Any) -> Any:
            async def unary(request: Any, context: Any) -> Any:
                with self._place():
                    return await behaviour(request, context)

            async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
                with self._place():
                    async with aclosing(behaviour(request, context)) as replies:
                        async for reply in replies:
                            yield reply

            return streamed if handler.response_streaming else unary

        return replaced(handler, counted)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


def read_tokens(path: Path) -> list[str]:
    """Returns the tokens in a file.

    Raises:
        ConfigError: The file cannot be read, has no tokens, or has one that nobody could send.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read the tokens in {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise not_text(path, error) from error
    tokens = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            if not (line.isascii() and line.isprintable()):
                text = "a token travels in an HTTP header and has printable ASCII characters only: make one with `openssl rand -hex 32`"
                raise ConfigError(f"{path}, line {number}: {text}.")
            tokens.append(line)
    if not tokens:
        raise ConfigError(f"{path} has no tokens: write one a line, for example from `openssl rand -hex 32`.")
    if path.stat().st_mode & 0o077:
        _LOG.warning("%s can be read by other users of this machine: chmod 600 it", path)
    return tokens


def _refuse(handler: Handler, fault: Fault) -> Handler:
    async def refused(_: Any, context: Any) -> None:
        await abort(context, fault)

    return replaced(handler, lambda _: refused)
