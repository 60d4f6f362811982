"""Tests of replies: decimals, left-out components, the limit of bytes, and replies after failures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.estimator_clients import ask_as_kepler, checked_reply, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.kepler_powers import kepler_powers
from support.linear_models import MACHINE, LinearModel, publish

from kepler_core.arrays import FloatArray
from kepler_servers.estimator import replies
from kepler_servers.estimator.joint_rounding import round_jointly
from kepler_servers.estimator.replies import READ_LIMIT, Reply, failure_reply, watts_reply

_FOUR = ("package", "core", "uncore", "dram")


def random_watts(components: Sequence[str], rows: int) -> Any:
    """Return random watts for each component, with two digits before the decimal point and three after it."""
    random = np.random.default_rng(0)
    return {name: np.round(random.uniform(10.0, 99.9, rows), 3) for name in components}


def reply_of(watts: Mapping[str, Any], *, limit: int = READ_LIMIT, core_ratio: float | None = None) -> Reply:
    return watts_reply(tuple(watts), np.array(list(watts.values())), limit=limit, core_ratio=core_ratio)


def as_lists(watts: Any) -> dict[str, list[float]]:
    """Convert watts from arrays to lists, the form of watts in a decoded reply."""
    return {name: values.tolist() for name, values in watts.items()}


@pytest.mark.parametrize(("components", "rows"), [(("platform",), 537), (("package", "dram"), 268), (_FOUR, 133)])
@pytest.mark.parametrize("core_ratio", [None, 0.333333])
def test_replies_have_milliwatts_up_to_the_documented_row_counts(
    components: tuple[str, ...], rows: int, core_ratio: float | None
) -> None:
    watts = random_watts(components, rows)
    reply = reply_of(watts, limit=READ_LIMIT, core_ratio=core_ratio)
    assert (reply.decimals, reply.left_out, reply.too_long) == (3, (), False)
    assert len(reply.content) <= 4096
    assert checked_reply(reply.content)["powers"] == as_lists(watts)


def test_long_replies_lose_decimals_and_components() -> None:
    """With more rows, a reply has fewer decimals and, if it is still too long, fewer components."""
    first_rows = {}
    for rows in range(100, 1500, 10):
        reply = reply_of(random_watts(_FOUR, rows), limit=READ_LIMIT, core_ratio=0.5)
        content = checked_reply(reply.content)
        assert (len(reply.content) > READ_LIMIT) == reply.too_long
        assert content["core_ratio"] == 0.5
        assert set(content["powers"]) == set(_FOUR) - set(reply.left_out)
        assert all(len(values) == rows for values in content["powers"].values())
        assert all(name in content["msg"] for name in reply.left_out)
        first_rows.setdefault((reply.decimals, reply.left_out, reply.too_long), rows)
    expected = [
        (3, (), False), (2, (), False), (2, ("uncore",), False), (1, ("uncore",), False),
        (1, ("uncore", "core"), False), (0, ("uncore", "core"), False), (0, ("uncore", "core", "dram"), False),
        (0, ("uncore", "core", "dram"), True),
    ]  # fmt: skip
    assert list(first_rows) == expected


def heavy_tailed(rows: int, seed: int) -> FloatArray:
    """Return watts of processes, shape (components, rows). A few processes use most of the power.

    The watts of `package` and `dram` have a Pareto distribution with the shape parameter 1.1.
    """
    random = np.random.default_rng(seed)
    package, dram = random.pareto(1.1, (2, rows)) + 1e-3
    package, dram = 90.0 * package / package.sum(), 12.0 * dram / dram.sum()
    core = package * random.uniform(0.5, 0.8, rows)
    return np.vstack([package, core, 0.1 * package, dram])


@pytest.mark.parametrize("rows", [200, 266, 300, 400, 500])
def test_kepler_computes_the_right_sums_for_many_processes(rows: int) -> None:
    watts = heavy_tailed(rows, seed=rows)
    exact = dict(zip(_FOUR, 1000 * watts, strict=True))
    mean = np.zeros(rows)
    for turn in range(100):
        reply = watts_reply(_FOUR, watts.copy(), limit=READ_LIMIT, keep_sums=True, turn=turn)
        assert not reply.too_long
        found = kepler_powers(checked_reply(reply.content)["powers"], rows)
        assert found.total.sum() == pytest.approx(exact["package"].sum() + exact["dram"].sum(), rel=0.01)
        for name in set(_FOUR) - set(reply.left_out):
            assert getattr(found, name).sum() == pytest.approx(exact[name].sum(), rel=0.01), name
        assert "dram" not in reply.left_out
        mean += found.package / 100
    assert set(reply.left_out) <= {"uncore"}
    small = exact["package"] < 200
    assert mean[small].sum() == pytest.approx(exact["package"][small].sum(), rel=0.01)
    middle = small & (exact["package"] > 30)
    np.testing.assert_allclose(mean[middle], exact["package"][middle], rtol=0.05)


@pytest.mark.parametrize(
    ("decimals", "concentrate_core"),
    [
        (dict.fromkeys(_FOUR, 2), False),
        (dict.fromkeys(_FOUR, 0), False),
        ({"package": 1, "core": 1, "dram": 0}, False),
        ({"package": 1, "uncore": 1}, False),
        ({"package": 1, "dram": 1}, False),
        ({"package": 2, "core": 1, "dram": 1}, True),
        ({"package": 1, "core": 1, "dram": 1}, True),
    ],
)
def test_joint_rounding_keeps_sums_in_every_turn(decimals: dict[str, int], concentrate_core: bool) -> None:
    names = list(decimals)
    watts = heavy_tailed(350, seed=3)[[_FOUR.index(name) for name in names]]
    for turn in range(20):
        rounded = round_jointly(names, watts, decimals, turn, concentrate_core=concentrate_core)
        assert (rounded >= 0).all()
        found = kepler_powers(dict(zip(names, rounded, strict=True)), 350)
        for name, row, exact in zip(names, rounded, watts, strict=True):
            np.testing.assert_allclose(row, np.round(row, decimals[name]), atol=1e-9)
            assert row.sum() == pytest.approx(exact.sum(), abs=3 * 10.0 ** -decimals[name])
            np.testing.assert_allclose(getattr(found, name), 1000 * row, atol=1)


_watt = st.sampled_from([0.0, 0.0, 0.5, 1.0, 12.345, 7.25, 100.0, 1234.567, 99999.999, 1e-9]) | st.floats(0, 1e6)


@given(
    st.dictionaries(st.sampled_from(_FOUR), st.lists(_watt, min_size=1, max_size=12), min_size=1),
    st.integers(1, 120),
    st.sampled_from([0, 300, 4096]),
)
def test_a_reply_has_as_many_decimals_as_fit(drawn: dict[str, list[float]], rows: int, limit: int) -> None:
    watts = {name: np.resize(np.array(values), rows) for name, values in drawn.items()}
    reply = reply_of({name: values.copy() for name, values in watts.items()}, limit=limit)
    content = checked_reply(reply.content)
    assert b" " not in reply.content or content["msg"]
    assert reply.too_long == bool(limit and len(reply.content) > limit)
    for name, values in watts.items():
        if name in content["powers"]:
            assert np.abs(np.array(content["powers"][name]) - values).max() <= 0.5001 * 10.0**-reply.decimals
        elif name not in reply.left_out:
            assert not values.any()
    if reply.decimals < 3:
        # with one more decimal in each number, the reply would be longer than the limit
        longer = {name: np.round(watts[name], reply.decimals + 1).tolist() for name in watts if watts[name].any()}
        assert len(json.dumps({"powers": longer, "msg": ""}, separators=(",", ":"))) > limit


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=30), st.integers(0, 3))
def test_no_reply_is_shorter_than_its_lower_bound(numbers: list[float], decimals: int) -> None:
    """The estimated minimum length of a reply is never larger than the real length.

    The estimator shortens a reply if the estimated minimum length exceeds the limit.
    """
    rounded = np.round(np.array([numbers]), decimals)
    assert replies._least_bytes(rounded) <= len(replies._encoded_whole({"package": rounded[0]}, {"msg": ""}))
    assert replies._least_bytes_with_decimals(rounded) <= len(replies._encoded({"package": rounded[0]}, {"msg": ""}))


def test_idle_processes_leave_room_for_the_decimals_of_others() -> None:
    """If only 80 of 800 processes use power, the reply keeps all decimals, because a value of 0 W takes few bytes."""
    watts = {"package": np.zeros(800)}
    watts["package"][::10] = 12.345
    reply = reply_of(watts, limit=READ_LIMIT)
    assert len(reply.content) < 4000
    assert reply.decimals == 3
    assert checked_reply(reply.content)["powers"] == as_lists(watts)


def test_all_but_one_of_the_components_with_zeros_only_are_left_out() -> None:
    watts = {"package": np.array([1.5, 0.0]), "core": np.zeros(2), "dram": np.array([0.0, 0.25])}
    assert checked_reply(reply_of(watts, limit=4096).content)["powers"] == {"package": [1.5, 0.0], "dram": [0.0, 0.25]}
    zero = {"package": np.zeros(3), "core": np.zeros(3)}
    assert checked_reply(reply_of(zero, limit=4096).content)["powers"] == {"package": [0.0] * 3}
    assert checked_reply(reply_of({"platform": np.zeros(0)}, limit=4096).content)["powers"] == {"platform": []}


def test_a_reply_without_limit_has_all_decimals() -> None:
    watts = random_watts(_FOUR, 5000)
    reply = reply_of(watts, limit=0)
    assert (reply.decimals, reply.left_out, reply.too_long) == (3, (), False)
    assert checked_reply(reply.content)["powers"] == as_lists(watts)


def test_a_failure_reply_has_zeros_for_dynpower_only() -> None:
    assert checked_reply(failure_reply("why", "AbsPower", 3, ("package",), limit=4096).content) == {
        "powers": {},
        "msg": "why",
    }
    assert checked_reply(failure_reply("why", None, 0, (), limit=4096).content) == {"powers": {}, "msg": "why"}
    reply = checked_reply(failure_reply("why", "DynPower", 3, ("platform", "package"), limit=4096).content)
    assert reply == {"powers": {"platform": [0, 0, 0], "package": [0, 0, 0]}, "msg": "why"}


@given(st.text(max_size=30), st.integers(1, 400), st.integers(0, 1100), st.sampled_from(["AbsPower", "DynPower"]))
def test_a_failure_reply_is_shortened_to_the_limit(piece: str, times: int, rows: int, output_type: str) -> None:
    message = piece * times
    reply = failure_reply(message, output_type, rows, ("package",), limit=4096)
    content = checked_reply(reply.content)
    assert message.startswith(content["msg"].removesuffix("…"))
    assert content["powers"] == ({} if output_type == "AbsPower" else {"package": [0] * rows})
    assert not reply.too_long
    assert len(reply.content) <= 4096


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstimatorProcess]:
    """An estimator with three models, which have one, two and four components."""
    folder = tmp_path_factory.mktemp("replies")
    two = {"package": (10.0, {"bpf_cpu_time_ms": 1.0}), "dram": (20.0, {"bpf_page_cache_hit": 1.0})}
    four = {**two, "core": (30.0, {"bpf_cpu_time_ms": 1.0}), "uncore": (40.0, {"bpf_cpu_time_ms": 1.0})}
    platform = {"platform": (10.0, {"bpf_cpu_time_ms": 1.0})}
    publish(folder / "store", LinearModel(watts=two), LinearModel(watts=platform, source="acpi"))
    publish(folder / "store", LinearModel(trainer="FourTrainer", watts=four), name="four")
    (folder / "machine.json").write_text(json.dumps({**MACHINE, "cores": 24}))
    arguments = ("-s", folder / "store", "--machine-spec", folder / "machine.json")
    with running_estimator(folder / "e.sock", *arguments) as process:
        yield process


@pytest.mark.parametrize(
    ("source", "trainer", "names", "rows"),
    [
        ("acpi", "", ["platform"], 537),
        ("intel_rapl", "SGDRegressorTrainer", ["package", "dram"], 268),
        ("intel_rapl", "FourTrainer", list(_FOUR), 133),
    ],
)
def test_kepler_reads_all_rows_of_the_documented_counts(
    estimator: EstimatorProcess, source: str, trainer: str, names: list[str], rows: int
) -> None:
    before = estimator.status()["replies_with_fewer_decimals"]
    values = np.round(np.random.default_rng(1).uniform(0, 50, (rows, 2)), 3).tolist()
    request = watts_request(values, source=source, trainer_name=trainer, filter="mae:1")
    content = ask_as_kepler(estimator.path, request)
    reply = checked_reply(content)
    assert len(content) <= 4096
    assert sorted(reply["powers"]) == sorted(names)
    assert all(len(column) == rows for column in reply["powers"].values())
    assert b" " not in content
    if source == "acpi":
        assert reply["powers"]["platform"] == [round(10.0 + cpu, 3) for cpu, _ in values]
    assert estimator.status()["replies_with_fewer_decimals"] == before


def test_replies_with_fewer_decimals_are_counted(estimator: EstimatorProcess) -> None:
    before = estimator.status()["replies_with_fewer_decimals"]
    for rows in (700, 1000, 1300):
        content = ask_as_kepler(estimator.path, watts_request([[1.234, 1]] * rows, source="acpi"))
        assert len(checked_reply(content)["powers"]["platform"]) == rows
    assert estimator.status()["replies_with_fewer_decimals"] == before + 3


def test_replies_that_are_too_long_are_counted_and_logged(estimator: EstimatorProcess) -> None:
    ask_as_kepler(estimator.path, watts_request([[1.5, 1]] * 2000, source="acpi"))
    assert estimator.status()["replies_too_long"] == 1
    assert "too many rows" in estimator.log


def test_a_remark_is_left_out_if_the_watts_would_need_its_room() -> None:
    watts = random_watts(("package", "dram"), 285)
    array = np.array(list(watts.values()))
    reply = watts_reply(tuple(watts), array, limit=READ_LIMIT, message="m", remark="r" * 300, keep_sums=True)
    plain = watts_reply(tuple(watts), array, limit=READ_LIMIT, message="m", keep_sums=True)
    assert reply == plain
    assert (reply.decimals, json.loads(reply.content)["msg"]) == (3, "m")
    few = watts_reply(tuple(watts), array[:, :200], limit=READ_LIMIT, message="m", remark="r" * 300, keep_sums=True)
    assert json.loads(few.content)["msg"] == f"m; {'r' * 300}"
    assert watts_reply(tuple(watts), array[:, :9], limit=0, remark="r").content.endswith(b'"msg":"r"}')
