"""A function that runs a check on random inputs for some seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")

SECONDS_VARIABLE = "KEPLER_FUZZ_SECONDS"
"""Environment variable with the number of seconds that each call of `fuzz` runs."""
DEFAULT_SECONDS = 4.0
FIRST_SEED = int(os.environ.get("KEPLER_FUZZ_SEED", "0"))
"""Seed of the first batch of inputs. The seed rises by one with each batch.

An error states the seed of its batch. To reproduce the error, set this seed as the first seed.
"""

_EXAMPLES = 500

inputs_checked = 0
"""Number of inputs that this process has checked."""


def fuzz(inputs: st.SearchStrategy[T], check: Callable[[T], object]) -> int:
    """Check random inputs until a time limit, and return the number of inputs.

    The environment variable `SECONDS_VARIABLE` sets the time limit. After at most `_EXAMPLES` inputs, a new seed is
    used.
    """
    global inputs_checked
    end = time.monotonic() + float(os.environ.get(SECONDS_VARIABLE) or DEFAULT_SECONDS)
    n_inputs = 0
    number = FIRST_SEED
    while time.monotonic() < end:

        @seed(number)
        @settings(
            max_examples=_EXAMPLES,
            deadline=None,
            derandomize=False,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def check_inputs(drawn: T) -> None:
            nonlocal n_inputs
            if time.monotonic() < end or n_inputs == 0:
                n_inputs += 1
                check(drawn)

        before = n_inputs
        try:
            check_inputs()
        except BaseException as error:
            error.add_note(f"KEPLER_FUZZ_SEED={number}")
            raise
        finally:
            inputs_checked += n_inputs - before
        number += 1
    return n_inputs


def mostly(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy that takes nine of ten values from `good`, and one from `odd`.

    So a document with many random values is still often accepted.
    """
    return st.sampled_from([good] * 9 + [odd]).flatmap(lambda chosen: chosen)


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    """Generate a document in which some bytes are removed, replaced or repeated."""
    content = draw(documents)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 8) | st.just(len(content)))
        # Brackets, quotes and digits break a document in more places than random bytes do.
        new = draw(
            st.binary(max_size=4)
            | st.text('[]{},:"0123456789.eE-+ \\nul', max_size=6).map(str.encode)
            | st.sampled_from(
                [b"null", b"NaN", b"1e400", b"1e308", b"\xff", b"9" * 400, b"[" * 3000, b"\\ud800", b'"\\u0000']
            )
        )
        content = content[:at] + new + content[at + length :]
    return content
