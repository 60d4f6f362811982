"""Tests of the time limit for slow model providers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.process import PATIENCE, wait_for

from kepler_core.errors import KeplerError, NoModelError
from kepler_core.selection import ModelRequest
from kepler_servers.estimator.model_providers import ModelOffer, StillRunningError, UnreachableError
from kepler_servers.estimator.time_limited_provider import MAX_CALLS, TimeLimitedProvider

OFFER = ModelOffer("a provider", "a model", "digest", {}, {}, {})


def request(trainer: str | None = None) -> ModelRequest:
    return ModelRequest("AbsPower", ("bpf_cpu_time_ms",), "rapl-sysfs", trainer=trainer)


class SlowProvider:
    """A model provider that waits until the test sets the event `go`, and then returns the result of `answer`."""

    name = "a provider"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.answer: Callable[[], ModelOffer] = lambda: OFFER
        self.calls = 0

    def offer(self, request: ModelRequest) -> ModelOffer:
        self.calls += 1
        assert self.go.wait(PATIENCE)
        return self.answer()

    def changed(self) -> bool:
        return False


@pytest.fixture
def slow() -> Iterator[SlowProvider]:
    provider = SlowProvider()
    yield provider
    provider.go.set()


def test_an_offer_in_time(slow: SlowProvider) -> None:
    slow.go.set()
    assert TimeLimitedProvider(slow).offer(request()) is OFFER


def test_a_late_offer_is_returned_by_a_later_call(slow: SlowProvider) -> None:
    provider = TimeLimitedProvider(slow)
    for _ in range(2):
        with pytest.raises(StillRunningError, match="a provider: no answer yet"):
            provider.offer(request())
    slow.go.set()
    assert provider.offer(request()) is OFFER
    assert slow.calls == 1
    assert provider.offer(request()) is OFFER
    assert slow.calls == 2


def test_a_slow_request_does_not_delay_the_others(slow: SlowProvider) -> None:
    provider = TimeLimitedProvider(slow)
    with pytest.raises(StillRunningError):
        provider.offer(request("Slow"))
    slow.go.set()
    assert provider.offer(request("Other")) is OFFER


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (NoModelError("no model fits", {}), NoModelError, "^no model fits$"),
        (UnreachableError("no route"), UnreachableError, "^no route$"),
        (RuntimeError("two\nlines"), UnreachableError, "^a provider: RuntimeError: two lines$"),
        (TimeoutError("timed out"), UnreachableError, "^a provider: TimeoutError: timed out$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_provider(
    slow: SlowProvider, error: Exception, expected: type[KeplerError], message: str
) -> None:
    def fail() -> ModelOffer:
        raise error

    slow.answer = fail
    slow.go.set()
    with pytest.raises(expected, match=message) as caught:
        TimeLimitedProvider(slow).offer(request())
    assert not isinstance(caught.value, StillRunningError)


def test_the_number_of_calls_is_limited(slow: SlowProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kepler_servers.estimator.time_limited_provider.OFFER_TIMEOUT_SECONDS", 0.01)
    provider = TimeLimitedProvider(slow)
    for number in range(MAX_CALLS):
        with pytest.raises(StillRunningError):
            provider.offer(request(str(number)))
    with pytest.raises(UnreachableError, match="too many unanswered requests"):
        provider.offer(request("one more"))
    assert slow.calls == MAX_CALLS
    slow.go.set()
    # The provider forgets calls that have ended, even if their results were never read. Then a new call can start.
    wait_for(lambda: all(call.done() for call in provider._calls.values()), "the calls do not end")
    monkeypatch.undo()
    assert provider.offer(request("one more")) is OFFER
    assert len(provider._calls) < MAX_CALLS


def test_a_provider_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import time
from kepler_core.selection import ModelRequest
from kepler_servers.estimator.model_providers import StillRunningError
from kepler_servers.estimator.time_limited_provider import TimeLimitedProvider

class Hanging:
    name = "hanging"

    def offer(self, request):
        time.sleep(600)

try:
    TimeLimitedProvider(Hanging()).offer(ModelRequest("AbsPower", ("a",), "rapl-sysfs"))
except StillRunningError:
    print("still running")
"""
    started = time.monotonic()
    completed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert completed.stdout == "still running\n"
    assert time.monotonic() - started < PATIENCE
