"""What is passed by name beside a point is an option of the method, else an argument of the function, else refused as neither."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from jacloom import ArgumentError, OptionError
from jacloom._pointed import pointed


class Methods:
    @pointed(lambda f: "f")
    def ask(self, f: Any, /, *args: Any, mode: str = "auto", **kwargs: Any) -> Any:
        """Returns what it got."""
        if mode not in ("auto", "forward"):
            raise OptionError(f"`client.ask(f, ..., mode={mode!r})`: mode must be 'auto' or 'forward'.")
        return args, mode, kwargs


ask = Methods().ask


def with_scale(x: Any, scale: float = 1.0, mode: str = "fast") -> Any:
    return x * scale


def test_options_come_first() -> None:
    assert ask(with_scale, 2, scale=3, mode="forward") == ((2,), "forward", {"scale": 3})


@pytest.mark.parametrize("f", [lambda x, **rest: x, "an id"], ids=["any name", "an id"])
def test_a_function_that_may_take_any_name_is_given_it(f: Any) -> None:
    assert ask(f, 2, scale=3) == ((2,), "auto", {"scale": 3})


def test_what_is_neither_is_named_with_the_options_there_are() -> None:
    with pytest.raises(ArgumentError) as caught:
        ask(with_scale, 2, tile=3, scale=1)
    assert str(caught.value) == "`client.ask(f, ..., tile=...)`: tile is no argument of f, and the options here are mode."


def test_an_argument_without_a_name_is_none() -> None:
    with pytest.raises(ArgumentError, match="x is no argument of f"):
        ask(lambda x, /: x, 2, x=3)


def test_where_both_have_the_name_a_refused_option_says_how_to_pass_the_other() -> None:
    with pytest.raises(OptionError) as caught:
        ask(with_scale, 2, mode="fast")
    assert str(caught.value) == (
        "`client.ask(f, ..., mode='fast')`: mode must be 'auto' or 'forward'. "
        "To pass f its own argument mode, bind it: functools.partial(f, mode=...)."
    )
    with pytest.raises(OptionError, match=r"'forward'\.$"):
        ask(jnp.sin, 2, mode="fast")


def test_a_function_may_have_an_argument_called_f() -> None:
    assert ask(lambda f: f, f=3) == ((), "auto", {"f": 3})
