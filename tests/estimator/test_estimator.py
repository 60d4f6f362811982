"""The estimator as a real process: watts, selection, where models come from, sockets."""

from __future__ import annotations

import http.server
import io
import json
import os
import pickle
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.estimator_process import (
    ABS,
    ALL,
    DYN,
    KEPLERS_READ,
    MACHINE,
    PLATFORM,
    EstimatorProcess,
    GoodClient,
    LinearModel,
    ask_as_kepler,
    connect,
    estimating,
    files_of,
    parsed,
    publish,
    watts_request,
)
from support.server_process import BPF, PATIENCE, ServerProcess, free_port, serving, wait_for

from kepler_core.client import EstimatorClient
from kepler_core.errors import UsageError
from kepler_core.estimate import estimate
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.selection import ModelRequest, read_catalogue
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_core.store.layout import zip_bytes
from kepler_servers.estimator.listening import listen
from kepler_servers.estimator.replies import READ_LIMIT, Reply, failure_reply, watts_reply

REQUEST = watts_request()
WATTS = {"package": [51.2], "dram": [8.4]}
"""What `ABS` answers to it."""

OTHER = LinearModel(watts={"package": (1.0, {}), "dram": (2.0, {"bpf_page_cache_hit": 1.0})})
OTHER_WATTS = {"package": [1.0], "dram": [202.0]}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    publish(tmp_path / "store", *ALL)
    return tmp_path / "store"


# --- replies ---

_FOUR = ("package", "core", "uncore", "dram")


def made_up(components: Sequence[str], rows: int, seed: int = 0, low: float = 10.0, high: float = 99.9) -> Any:
    drawn = np.random.default_rng(seed)
    return {name: np.round(drawn.uniform(low, high, rows), 3) for name in components}


def reply_of(watts: Mapping[str, Any], *, limit: int = READ_LIMIT, core_ratio: float | None = None) -> Reply:
    return watts_reply(tuple(watts), np.array(list(watts.values())), limit=limit, core_ratio=core_ratio)


def as_lists(watts: Any) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in watts.items()}


@pytest.mark.parametrize(("components", "rows"), [(("platform",), 537), (("package", "dram"), 268), (_FOUR, 133)])
@pytest.mark.parametrize("core_ratio", [None, 0.333333])
def test_milliwatts_as_far_as_the_contract_says(
    components: tuple[str, ...], rows: int, core_ratio: float | None
) -> None:
    watts = made_up(components, rows)
    reply = reply_of(watts, limit=READ_LIMIT, core_ratio=core_ratio)
    assert (reply.decimals, reply.left_out, reply.too_long) == (3, (), False)
    assert len(reply.content) <= 4096
    assert parsed(reply.content)["powers"] == as_lists(watts)


def test_decimals_are_given_up_first_then_what_is_needed_least() -> None:
    reached = {}
    for rows in range(100, 1500, 10):
        reply = reply_of(made_up(_FOUR, rows), limit=READ_LIMIT, core_ratio=0.5)
        found = parsed(reply.content)
        assert (len(reply.content) > READ_LIMIT) == reply.too_long
        assert found["core_ratio"] == 0.5
        assert set(found["powers"]) == set(_FOUR) - set(reply.left_out)
        assert all(len(values) == rows for values in found["powers"].values())
        if reply.left_out:
            assert reply.decimals == 0
            assert all(name in found["msg"] for name in reply.left_out)
        reached.setdefault((reply.decimals, reply.left_out, reply.too_long), rows)
    orders = [
        (3, (), False), (2, (), False), (1, (), False), (0, (), False), (0, ("uncore",), False),
        (0, ("uncore", "core"), False), (0, ("uncore", "core", "dram"), False), (0, ("uncore", "core", "dram"), True),
    ]  # fmt: skip
    assert list(reached) == orders


_watt = st.sampled_from([0.0, 0.0, 0.5, 1.0, 12.345, 7.25, 100.0, 1234.567, 99999.999, 1e-9]) | st.floats(0, 1e6)


@given(
    st.dictionaries(st.sampled_from(_FOUR), st.lists(_watt, min_size=1, max_size=12), min_size=1),
    st.integers(1, 120),
    st.sampled_from([0, 300, 4096]),
)
def test_as_many_decimals_as_there_is_room_for(drawn: dict[str, list[float]], rows: int, limit: int) -> None:
    watts = {name: np.resize(np.array(values), rows) for name, values in drawn.items()}
    reply = reply_of({name: values.copy() for name, values in watts.items()}, limit=limit)
    found = parsed(reply.content)
    assert b" " not in reply.content or found["msg"]
    assert reply.too_long == bool(limit and len(reply.content) > limit)
    for name, values in watts.items():
        if name in found["powers"]:
            assert np.abs(np.array(found["powers"][name]) - values).max() <= 0.5001 * 10.0**-reply.decimals
        elif name not in reply.left_out:
            assert not values.any()
    if reply.decimals < 3:
        # it would not have fitted with one more
        more = {name: np.round(watts[name], reply.decimals + 1).tolist() for name in watts if watts[name].any()}
        assert len(json.dumps({"powers": more, "msg": ""}, separators=(",", ":"))) > limit


def test_idle_processes_leave_room_for_the_decimals_of_others() -> None:
    """As it is: hundreds of processes of which a few do something."""
    watts = {"package": np.zeros(800)}
    watts["package"][::10] = 12.345
    reply = reply_of(watts, limit=READ_LIMIT)
    assert len(reply.content) < 4000
    assert reply.decimals == 3
    assert parsed(reply.content)["powers"] == as_lists(watts)


def test_components_that_are_all_zero_are_left_out_but_one() -> None:
    watts = {"package": np.array([1.5, 0.0]), "core": np.zeros(2), "dram": np.array([0.0, 0.25])}
    assert parsed(reply_of(watts, limit=4096).content)["powers"] == {"package": [1.5, 0.0], "dram": [0.0, 0.25]}
    zero = {"package": np.zeros(3), "core": np.zeros(3)}
    assert parsed(reply_of(zero, limit=4096).content)["powers"] == {"package": [0.0] * 3}
    assert parsed(reply_of({"platform": np.zeros(0)}, limit=4096).content)["powers"] == {"platform": []}


def test_without_a_limit_all_decimals() -> None:
    watts = made_up(_FOUR, 5000)
    reply = reply_of(watts, limit=0)
    assert (reply.decimals, reply.left_out, reply.too_long) == (3, (), False)
    assert parsed(reply.content)["powers"] == as_lists(watts)


def test_failure_replies() -> None:
    assert parsed(failure_reply("why", "AbsPower", 3, ("package",), limit=4096).content) == {"powers": {}, "msg": "why"}
    assert parsed(failure_reply("why", None, 0, (), limit=4096).content) == {"powers": {}, "msg": "why"}
    found = parsed(failure_reply("why", "DynPower", 3, ("platform", "package"), limit=4096).content)
    assert found == {"powers": {"platform": [0, 0, 0], "package": [0, 0, 0]}, "msg": "why"}


@given(st.text(max_size=30), st.integers(1, 400), st.integers(0, 1100), st.sampled_from(["AbsPower", "DynPower"]))
def test_a_failure_reply_is_shortened_to_the_limit(piece: str, times: int, rows: int, output_type: str) -> None:
    message = piece * times
    reply = failure_reply(message, output_type, rows, ("package",), limit=4096)
    found = parsed(reply.content)
    assert message.startswith(found["msg"].removesuffix("…"))
    assert found["powers"] == ({} if output_type == "AbsPower" else {"package": [0] * rows})
    assert not reply.too_long
    assert len(reply.content) <= 4096


def test_replies_of_a_process(store: Path, tmp_path: Path) -> None:
    """Kepler's one read gets them all, at the row counts of the contract and above."""
    components = {"package": (10.0, {"bpf_cpu_time_ms": 1.0}), "dram": (20.0, {"bpf_page_cache_hit": 1.0})}
    four = {**components, "core": (30.0, {"bpf_cpu_time_ms": 1.0}), "uncore": (40.0, {"bpf_cpu_time_ms": 1.0})}
    platform = {"platform": (10.0, {"bpf_cpu_time_ms": 1.0})}
    publish(store, LinearModel(watts=components), LinearModel(watts=platform, source="acpi"))
    publish(store, LinearModel(trainer="FourTrainer", watts=four), name="four")
    machine = tmp_path / "machine.json"
    machine.write_text(json.dumps({**MACHINE, "cores": 24}))
    with estimating(tmp_path / "e.sock", "-s", store, "--machine-spec", machine) as estimator:
        drawn = np.random.default_rng(1)
        for source, trainer, names, rows in (
            ("acpi", "", ["platform"], 537),
            ("intel_rapl", "SGDRegressorTrainer", ["package", "dram"], 268),
            ("intel_rapl", "FourTrainer", list(_FOUR), 133),
        ):
            values = np.round(drawn.uniform(0, 50, (rows, 2)), 3).tolist()
            request = watts_request(values, source=source, trainer_name=trainer, filter="mae:1")
            content = ask_as_kepler(estimator.path, request)
            reply = parsed(content)
            assert len(content) <= 4096
            assert sorted(reply["powers"]) == sorted(names)
            assert all(len(column) == rows for column in reply["powers"].values())
            assert b" " not in content
            if source == "acpi":
                assert reply["powers"]["platform"] == [round(10.0 + cpu, 3) for cpu, _ in values]
        assert estimator.status()["replies_with_fewer_decimals"] == 0
        for rows in (700, 1000, 1300):
            content = ask_as_kepler(estimator.path, watts_request([[1.234, 1]] * rows, source="acpi"))
            assert len(parsed(content)["powers"]["platform"]) == rows
        assert estimator.status()["replies_with_fewer_decimals"] == 3
        ask_as_kepler(estimator.path, watts_request([[1.5, 1]] * 2000, source="acpi"))
        assert estimator.status()["replies_too_long"] == 1
        assert "too many rows" in estimator.log


# --- the same watts ---

_PIPELINE = """
name: trained
energy_sources: [rapl-sysfs, acpi]
feature_groups: [BPFOnly, CounterOnly]
abs_trainers: [SGDRegressorTrainer, GradientBoostingRegressorTrainer, KNeighborsRegressorTrainer]
dyn_trainers: [SGDRegressorTrainer, GradientBoostingRegressorTrainer]
validation: {folds: 2}
max_rows: 400
"""


@contextmanager
def trained(folder: Path, recording: Path) -> Iterator[tuple[EstimatorProcess, Path, Any]]:
    """An estimator without a limit on replies, its store, and the observations that it was trained on."""
    pipeline = folder / "trained.yaml"
    pipeline.write_text(_PIPELINE)
    command = [sys.executable, "-m", "kepler_core", "train", str(pipeline), "-i", str(recording), "-s", str(folder)]
    command += ["--jobs", "1"]  # they are small: other processes would take longer to start
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr  # 3: a feature group that is not in the recording
    with estimating(folder / "e.sock", "-s", folder, "--reply-limit", "0") as estimator:
        yield estimator, folder, observe([read_recording(str(recording))])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EstimatorProcess, Path, Any]]:
    folder = tmp_path_factory.mktemp("simulated")
    write(Simulation(containers=6, timestamps=120), str(folder / "r.json.gz"))
    with trained(folder, folder / "r.json.gz") as found:
        yield found


@pytest.fixture(scope="module")
def coremark(
    recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EstimatorProcess, Path, Any]]:
    with trained(tmp_path_factory.mktemp("coremark"), recordings / "kepler_coremark.json") as found:
        yield found


def same_watts(found: tuple[EstimatorProcess, Path, Any], output_type: Any, source: str, trainer: str) -> None:
    """What the estimator answers is what `kepler-model estimate` says and the model predicts."""
    estimator, store, observations = found
    catalogue = read_catalogue(open_store(str(store)))
    request = ModelRequest(output_type, tuple(observations.features), source, trainer=trainer or None, portable=True)
    entry = catalogue.select(request).model
    estimated = estimate(entry, observations)
    extractor = registry.extractors.create("DefaultExtractor")
    rows = extractor.extract(observations, entry.features, entry.source, (), by_container=output_type == "DynPower")
    drawn = random.Random(f"{output_type} {source} {trainer}")
    client = EstimatorClient(str(estimator.path))
    for count in (1, 130, 260, 500):
        at = np.resize(np.arange(len(rows.X)), count)
        X = rows.X[at].copy()
        X[-1] = 0.0  # asks for idle power
        expected = {
            component: np.append(
                estimated.frame[f"{component}_predicted"].to_numpy()[at][:-1], entry.load().predict(X[-1:])[component]
            )
            for component in entry.load().components
        }
        table = {name: X[:, n] for n, name in enumerate(entry.features)}
        table |= {"task_clock_ms": np.arange(count, dtype=float), "other": np.full(count, 3.25)}
        replies = []
        for _ in range(3):
            names = drawn.sample(sorted(table), len(table))
            values = np.column_stack([table[name] for name in names]).tolist()
            values[0] = [int(value) if value == int(value) else value for value in values[0]]
            replies.append(client.ask(watts_request(values, names, output_type, source, trainer_name=trainer)))
        assert replies[0] == replies[1] == replies[2]
        powers = replies[0]["powers"]
        for component, watts in expected.items():
            got = np.array(powers.get(component, [0.0] * count))
            assert np.abs(got - watts).max() <= 0.0005 + 1e-9, component
        assert set(powers) <= set(expected)
        # what Kepler reads of it, had it asked an estimator with its limit
        content = reply_of(expected, limit=READ_LIMIT).content
        assert len(content) <= READ_LIMIT
        assert all(len(values) == count for values in parsed(content)["powers"].values())


_ASKED = [
    ("AbsPower", "intel_rapl", ""),
    ("DynPower", "intel_rapl", ""),
    ("AbsPower", "acpi", ""),
    ("DynPower", "acpi", ""),
    ("AbsPower", "rapl", "GradientBoostingRegressorTrainer"),
    ("DynPower", "rapl-sysfs", "GradientBoostingRegressorTrainer"),
    ("AbsPower", "acpi", "GradientBoostingRegressorTrainer"),
    ("AbsPower", "intel_rapl", "KNeighborsRegressorTrainer"),
    ("AbsPower", "intel_rapl", "SGDRegressorTrainer"),
]


@pytest.mark.parametrize(("output_type", "source", "trainer"), _ASKED)
def test_same_watts(simulated: Any, output_type: str, source: str, trainer: str) -> None:
    same_watts(simulated, output_type, source, trainer)


@pytest.mark.parametrize(("output_type", "source", "trainer"), _ASKED)
def test_same_watts_on_real_data(coremark: Any, output_type: str, source: str, trainer: str) -> None:
    same_watts(coremark, output_type, source, trainer)


def test_whole_numbers_are_numbers(simulated: Any) -> None:
    estimator = simulated[0]
    floats = watts_request([[1500.0, 20.0], [0.0, 0.0]])
    ints = watts_request([[1500, 20], [0, 0]])
    assert estimator.ask(ints) == estimator.ask(floats)
    assert estimator.ask(json.dumps(ints).replace("1500", "15e2").encode()) == estimator.ask(floats)


# --- selection by the request ---


@pytest.fixture(scope="module")
def choosing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstimatorProcess]:
    """Three models that answer differently: the best one, one of another trainer, one of more features."""
    folder = tmp_path_factory.mktemp("choosing")
    publish(
        folder / "store",
        LinearModel(mae=1.0, watts={"package": (1.0, {})}),
        LinearModel(trainer="OtherTrainer", mae=2.0, watts={"package": (2.0, {})}),
        LinearModel(group="CounterOnly", features=("cpu_cycles",), mae=0.5, watts={"package": (3.0, {})}),
        LinearModel(output_type="DynPower", mae=1.0, watts={"package": (4.0, {}), "dram": (5.0, {})}),
        PLATFORM,
    )
    with estimating(folder / "e.sock", "-s", folder / "store") as estimator:
        yield estimator


def answers(estimator: EstimatorProcess, **more: Any) -> Any:
    reply = estimator.ask(watts_request(**more))
    return reply["powers"].get("package", reply["msg"])


def test_every_request_gets_its_own_model(choosing: EstimatorProcess) -> None:
    """In any order: what was refused or chosen for one says nothing about the next."""
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, [1.0]),
        ({"trainer_name": "OtherTrainer"}, [2.0]),
        ({"trainer_name": "SGDRegressorTrainer"}, [1.0]),
        ({"metrics": [*BPF, "cpu_cycles"], "rows": [[1, 2, 3]]}, [3.0]),
        ({"metrics": ["cpu_cycles"], "rows": [[3]]}, [3.0]),
        ({"output_type": "DynPower"}, [4.0]),
        ({"filter": "mae:1.5"}, [1.0]),
        ({"trainer_name": "OtherTrainer", "filter": "mae:3"}, [2.0]),
        ({"metrics": [*BPF, "cpu_cycles"], "rows": [[1, 2, 3]], "filter": f"features:{','.join(BPF)}"}, [1.0]),
        ({"trainer_name": "OtherTrainer", "filter": "mae:1.5"}, "none of 1 models meets mae"),
        ({"filter": "mae:0.1"}, "lowest mae"),
        ({"trainer_name": "OthrTrainer"}, "did you mean OtherTrainer"),
        ({"metrics": ["cpu_cycle"], "rows": [[3]]}, "missing"),
        ({"source": "acpy"}, "did you mean acpi"),
        ({"filter": "mea:5"}, "did you mean mae"),
        ({"filter": "mae"}, "attribute:number"),
        ({"filter": "mae:x"}, "not a number"),
        ({"source": "hmc"}, "hmc"),
    ]  # fmt: skip
    drawn = random.Random(7)
    for _ in range(6):
        drawn.shuffle(cases)
        for more, expected in cases:
            found = answers(choosing, **more)
            assert found == expected if isinstance(expected, list) else expected in found, (more, found)


def test_all_names_of_a_source_are_one(choosing: EstimatorProcess) -> None:
    for source in ("intel_rapl", "rapl", "rapl-sysfs", ""):
        assert answers(choosing, source=source) == [1.0], source
    request = watts_request()
    del request["source"]
    assert choosing.ask(request)["powers"]["package"] == [1.0]


def test_a_failure_of_container_power_is_one_zero_per_row(choosing: EstimatorProcess) -> None:
    for more in ({"trainer_name": "Nobody"}, {"filter": "mae:0.1"}, {"metrics": ["x"]}, {"metrics": ["x", "x"]},
                 {"filter": "?"}):  # fmt: skip
        width = len(more.get("metrics", BPF))
        reply = choosing.ask(watts_request([[1] * width] * 7, output_type="DynPower", **more))
        assert reply["powers"]["package"] == [0] * 7, more
        assert reply["msg"]
        reply = choosing.ask(watts_request([[1] * width] * 7, **more))
        assert reply["powers"] == {}
        assert reply["msg"]
    reply = choosing.ask(watts_request([[1, 1]] * 3, output_type="DynPower", source="acpi"))
    assert reply["powers"] == {"platform": [0, 0, 0]}


def test_a_reason_is_about_its_own_request(choosing: EstimatorProcess) -> None:
    for name in ("first_of_them", "second_of_them"):
        reply = choosing.ask(watts_request([[1]], metrics=[name]))
        assert name in reply["msg"]
        assert {"first_of_them": "second", "second_of_them": "first"}[name] not in reply["msg"]


def test_wrong_rows_get_nothing_and_are_counted(choosing: EstimatorProcess) -> None:
    before = choosing.status()["invalid_rows"]
    content = json.dumps(watts_request(output_type="DynPower")).replace("[100, 200]", "[1,2],[NaN,1],[1],[3,4]")
    reply = choosing.ask(content.encode())
    assert reply["powers"] == {"package": [4.0, 0.0, 0.0, 4.0], "dram": [5.0, 0.0, 0.0, 5.0]}
    assert "2 rows" in reply["msg"]
    assert choosing.status()["invalid_rows"] == before + 2


# --- the machine ---


@pytest.mark.parametrize(
    ("mine", "theirs", "ratio"),
    [
        ({"cores": 16}, {"cores": 32}, 0.5),
        ({"cores": 96, "processor": "other"}, {"cores": 32}, 3.0),
        ({"cores": 1}, {"cores": 3}, 0.333333),
        ({"processor": "other"}, {"cores": 32}, None),
        ({"cores": 0}, {"cores": 32}, None),
        ({"cores": 16}, {"processor": "made_up"}, None),
        ({"cores": 16}, {"cores": 0}, None),
        ({"cores": 16}, {"cores": True}, None),
        ({"cores": 16}, {"cores": "32"}, None),
        (None, {"cores": 32}, round((os.cpu_count() or 0) / 32, 6)),
    ],
    ids=str,
)
def test_the_ratio_of_cores_is_in_every_reply(
    tmp_path: Path, mine: dict[str, Any] | None, theirs: dict[str, Any], ratio: float | None
) -> None:
    publish(tmp_path / "store", *ALL, machine=theirs)
    arguments: list[str | Path] = ["-s", tmp_path / "store"]
    if mine is not None:
        (tmp_path / "machine.json").write_text(json.dumps(mine))
        arguments += ["--machine-spec", tmp_path / "machine.json"]
    with estimating(tmp_path / "e.sock", *arguments) as estimator:
        requests: list[Any] = [
            REQUEST, REQUEST, watts_request(output_type="DynPower"), watts_request(source="acpi"),
            watts_request([[0, 0]]), watts_request([[1, 1]] * 700), watts_request([[-1, 0], [0, 0]]), watts_request([]),
        ]  # fmt: skip
        for request in requests:
            reply = estimator.ask(request)
            assert reply.get("core_ratio") == ratio
            assert ("core_ratio" in reply) == (ratio is not None)


@pytest.mark.parametrize("content", ["", "[]", '{"cores":"many"}', '{"cores":-1}', "{" * 5000, None], ids=repr)
def test_a_machine_that_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "machine.json").write_text(content)
    estimator = EstimatorProcess(tmp_path / "e.sock", "--machine-spec", tmp_path / "machine.json")
    assert estimator.process.wait(PATIENCE) == 2
    assert len(estimator.log.splitlines()) == 1
    assert "machine.json" in estimator.log


# --- the model server ---


class Models:
    """A model server that can be killed and started again on its port."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store = store
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: ServerProcess | None = None

    def start(self) -> None:
        log = self._folder / f"server.{time.monotonic_ns()}.log"
        self._process = ServerProcess(self.store, log, port=self.port)
        self._process.wait_ready()

    def kill(self) -> None:
        """With its workers, which would go on without it."""
        if self._process is not None:
            pid = self._process.process.pid
            workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self._process.process.kill()
            for worker in workers:
                os.kill(int(worker), signal.SIGKILL)
            self._process.process.wait(PATIENCE)
            self._process = None


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    found = Models(tmp_path / "served", tmp_path)
    publish(found.store, *ALL)
    yield found
    found.kill()


def test_models_from_a_server_that_dies_and_comes_back(models: Models, tmp_path: Path) -> None:
    models.start()
    with (
        estimating(tmp_path / "e.sock", "--model-server", models.url, "--refresh", "1") as estimator,
        GoodClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 2) as good,
    ):
        assert estimator.ask(REQUEST)["powers"] == WATTS
        assert estimator.ask(watts_request(output_type="DynPower"))["powers"] == {"package": [1.2], "dram": [0.4]}
        assert estimator.ask(watts_request(source="acpi"))["powers"] == {"platform": [102.0]}
        assert "OtherTrainer" in estimator.ask(watts_request(trainer_name="OtherTrainer"))["msg"]
        assert "mae" in estimator.ask(watts_request(filter="mae:0.1"))["msg"]
        assert estimator.origins() == [f"model server {models.url}/model"]
        models.kill()
        time.sleep(3)  # it asks again, twice at least
        good.wait()
        assert estimator.origins() == [f"model server {models.url}/model"]
        publish(models.store, OTHER)
        models.start()
        estimator.wait_answer(REQUEST, OTHER_WATTS)
        assert f"{models.url}/model in place of" in estimator.log
        good.wait()
    good.check()
    assert good.seen == {0, 1}


def test_the_server_chooses_by_machine_trainer_and_filter(models: Models, tmp_path: Path) -> None:
    near = {**MACHINE, "cores": 8}
    publish(models.store, LinearModel(mae=3, watts={"package": (7.0, {})}), name="near", machine=near)
    publish(models.store, LinearModel(trainer="OtherTrainer", mae=4, watts={"package": (8.0, {})}), name="other")
    models.start()
    (tmp_path / "machine.json").write_text(json.dumps(near))
    arguments = ("--model-server", models.url + "/model", "--machine-spec", tmp_path / "machine.json")
    with estimating(tmp_path / "e.sock", *arguments) as estimator:
        reply = estimator.ask(REQUEST)
        assert (reply["powers"], reply["core_ratio"]) == ({"package": [7.0]}, 1.0)
        reply = estimator.ask(watts_request(filter="mae:2"))
        assert (reply["powers"], reply["core_ratio"]) == (WATTS, 0.25)
        assert estimator.ask(watts_request(trainer_name="OtherTrainer"))["powers"] == {"package": [8.0]}
        assert "did you mean OtherTrainer" in estimator.ask(watts_request(trainer_name="OthrTrainer"))["msg"]
        assert estimator.ask(REQUEST)["powers"] == {"package": [7.0]}
        (model,) = (m for m in estimator.status()["models"] if m["filter"] == "" and m["trainer"] == "")
        assert model["model"].startswith("near/")
        assert model["why"]


def test_the_store_until_the_server_is_there(models: Models, tmp_path: Path) -> None:
    publish(tmp_path / "local", OTHER)
    arguments = ("--model-server", models.url, "-s", tmp_path / "local", "--refresh", "1")
    with (
        estimating(tmp_path / "e.sock", *arguments) as estimator,
        GoodClient(estimator.path, REQUEST, [OTHER_WATTS, WATTS], 2) as good,
    ):
        assert estimator.ask(REQUEST)["powers"] == OTHER_WATTS
        assert estimator.origins() == [f"store {tmp_path / 'local'}"]
        assert models.url in estimator.log, "why the server's model is not used"
        models.start()
        estimator.wait_answer(REQUEST, WATTS)
        assert estimator.origins() == [f"model server {models.url}/model"]
        good.wait()
    good.check()


def test_nothing_at_first(models: Models, tmp_path: Path) -> None:
    arguments = ("--model-server", models.url, "-s", tmp_path / "later", "--refresh", "1")
    with estimating(tmp_path / "e.sock", *arguments) as estimator:
        reply = estimator.ask(REQUEST)
        assert reply["powers"] == {}
        assert models.url in reply["msg"]
        reply = estimator.ask(watts_request([[1, 1]] * 5, output_type="DynPower"))
        assert (reply["powers"], bool(reply["msg"])) == ({"package": [0] * 5}, True)
        publish(tmp_path / "later", *ALL)
        estimator.wait_answer(REQUEST, WATTS)
        estimator.wait_answer(watts_request(output_type="DynPower"), {"package": [1.2], "dram": [0.4]})


def test_nowhere_to_get_models_from(tmp_path: Path) -> None:
    with estimating(tmp_path / "e.sock") as estimator:
        reply = estimator.ask(REQUEST)
        assert reply["powers"] == {}
        assert "no model server, URL or store is configured" in reply["msg"]
        assert "no model server, URL or store is configured" in estimator.log
        assert estimator.status()["origins"] == []


def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with estimating(tmp_path / "e.sock", "-s", tmp_path / "file") as estimator:
        assert estimator.ask(REQUEST)["powers"] == {}
        assert estimator.ask(watts_request(output_type="DynPower"))["powers"] == {"package": [0]}


def test_a_new_version_of_the_store_while_many_ask(store: Path, tmp_path: Path) -> None:
    with (
        estimating(tmp_path / "e.sock", "-s", store) as estimator,
        GoodClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 8) as good,
    ):
        good.wait(20)
        publish(store, OTHER)
        estimator.wait_answer(REQUEST, OTHER_WATTS)
        good.wait(20)
        publish(store, *ALL)
        estimator.wait_answer(REQUEST, WATTS)
        good.wait(20)
        status = estimator.status()
        assert status["requests"]["failed"] == 0
        assert sum(status["dropped_connections"].values()) == 0
    good.check()
    assert good.seen == {0, 1}


def test_a_broken_version_does_not_replace_a_good_one(store: Path, tmp_path: Path) -> None:
    with (
        estimating(tmp_path / "e.sock", "-s", store) as estimator,
        GoodClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 1) as good,
    ):
        good.wait()
        files = files_of(OTHER)
        for name in list(files):
            if name.endswith("SGDRegressorTrainer_0/package.json"):
                files[name] = b"not weights"
        open_store(str(store)).publish("made", files)
        wait_for(lambda: "not a weights file" in estimator.log, "the broken model was not looked at")
        good.wait()
        publish(store, OTHER)
        estimator.wait_answer(REQUEST, OTHER_WATTS)
    good.check()


def test_settings_by_environment_and_folder(models: Models, tmp_path: Path) -> None:
    models.start()
    publish(tmp_path / "local", OTHER)
    keys = {"MODEL_SERVER_URL": models.url, "MODEL_PATH": str(tmp_path / "local")}
    with estimating(tmp_path / "a.sock", environ=keys) as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS
    with estimating(tmp_path / "b.sock", environ={**keys, "MODEL_SERVER_ENABLE": "false"}) as estimator:
        assert estimator.ask(REQUEST)["powers"] == OTHER_WATTS
    (tmp_path / "config").mkdir()
    for key, value in {**keys, "MODEL_SERVER_MODEL_REQ_PATH": "/model"}.items():
        (tmp_path / "config" / key).write_text(value + "\n")
    with estimating(tmp_path / "c.sock", "--config-dir", tmp_path / "config") as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_a_url_that_is_none(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "localhost:8100", "ftp://host/model", "http://"):
        estimator = EstimatorProcess(tmp_path / "e.sock", "--model-server", url)
        assert estimator.process.wait(PATIENCE) == 2
        assert len(estimator.log.splitlines()) == 1, estimator.log


# --- configured URLs ---


@contextmanager
def http_files(folder: Path) -> Iterator[str]:
    def handler(*arguments: Any) -> Any:
        return http.server.SimpleHTTPRequestHandler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("level", ["CONTAINER", "PROCESS"])
def test_configured_urls(tmp_path: Path, scheme: str, level: str) -> None:
    folder = tmp_path / "urls"
    folder.mkdir()
    for name, model in (("abs", ABS), ("dyn", DYN), ("platform", PLATFORM)):
        (folder / f"{name}.zip").write_bytes(zip_bytes(model.stored()[1]))
    with http_files(folder) as url:
        base = url if scheme == "http" else folder.as_uri()
        keys = {
            "NODE_COMPONENTS_INIT_URL": f"{base}/abs.zip",
            "NODE_TOTAL_INIT_URL": f"{base}/platform.zip",
            f"{level}_COMPONENTS_INIT_URL": f"{base}/dyn.zip",
        }
        with estimating(tmp_path / "e.sock", environ=keys) as estimator:
            for _ in range(2):
                assert estimator.ask(REQUEST)["powers"] == WATTS
                assert estimator.ask(watts_request(source="acpi"))["powers"] == {"platform": [102.0]}
                reply = estimator.ask(watts_request(output_type="DynPower"))
                assert reply["powers"] == {"package": [1.2], "dram": [0.4]}
            reply = estimator.ask(watts_request(output_type="DynPower", source="acpi"))
            assert reply["powers"] == {"platform": [0]}
            assert f"{level}_TOTAL_INIT_URL" in reply["msg"]
            assert "did you mean SGDRegressorTrainer" in estimator.ask(watts_request(trainer_name="SGDRegresor"))["msg"]
            assert estimator.origins() == sorted(f"URL {keys[key]}" for key in keys)


def test_a_configured_url_whose_model_does_not_say_its_source(tmp_path: Path) -> None:
    files = dict(ABS.stored()[1])
    metadata = json.loads(files["metadata.json"])
    del metadata["source"]
    (tmp_path / "m.zip").write_bytes(zip_bytes({**files, "metadata.json": json.dumps(metadata).encode()}))
    keys = {"NODE_COMPONENTS_INIT_URL": (tmp_path / "m.zip").as_uri()}
    with estimating(tmp_path / "e.sock", environ=keys) as estimator:
        for source in ("rapl-sysfs", "rapl-msr"):
            assert estimator.ask(watts_request(source=source))["powers"] == WATTS


def test_a_configured_url_comes_before_the_store(tmp_path: Path) -> None:
    publish(tmp_path / "store", OTHER, DYN)
    (tmp_path / "m.zip").write_bytes(zip_bytes(ABS.stored()[1]))
    with http_files(tmp_path) as url:
        keys = {"NODE_COMPONENTS_INIT_URL": f"{url}/m.zip"}
        with estimating(tmp_path / "e.sock", "-s", tmp_path / "store", environ=keys) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
            assert estimator.ask(watts_request(output_type="DynPower"))["powers"]["package"] == [1.2]


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", zip_bytes({"metadata.json": b"{"}), zip_bytes({"metadata.json": b"[]"}), zip_bytes({"x": b""}),
     zip_bytes({"metadata.json": b'{"features":5}'}), zip_bytes({"metadata.json": b"{" * 100_000}), None],
    ids=["empty", "garbage", "half", "list", "none", "wrong", "deep", "absent"],
)  # fmt: skip
def test_a_configured_url_that_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    publish(tmp_path / "store", *ALL)
    if content is not None:
        (tmp_path / "m.zip").write_bytes(content)
    with http_files(tmp_path) as url:
        keys = {"NODE_COMPONENTS_INIT_URL": f"{url}/m.zip"}
        with estimating(tmp_path / "e.sock", "-s", tmp_path / "store", environ=keys) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
            assert f"{url}/m.zip" in estimator.log, "why it is not used"


# --- hostile model servers ---


class _Hostile(http.server.BaseHTTPRequestHandler):
    """Behaves as the path says."""

    protocol_version = "HTTP/1.0"
    over: threading.Event

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):  # the client had enough
            BEHAVIOURS[self.path.strip("/").split("/")[-1]](self)

    do_GET = do_POST

    def send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def _packed(**files: bytes) -> bytes:
    stored = ABS.stored()[1]
    named = {name.replace("_json", ".json").replace("_pkl", ".pkl"): data for name, data in files.items()}
    return zip_bytes({**stored, **named})


def _raw_zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


class _Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("touch pickle-was-loaded",)


def _endless(handler: _Hostile) -> None:
    handler.send(b"")
    while not handler.over.is_set():
        handler.wfile.write(b"\0" * 2**20)


def _silent(handler: _Hostile) -> None:
    handler.over.wait(120)


def _drip(handler: _Hostile) -> None:
    handler.send(b"", Content_Length="1000000")
    while not handler.over.wait(1.0):
        handler.wfile.write(b"P")
        handler.wfile.flush()


_METADATA = ABS.stored()[1]["metadata.json"]

BEHAVIOURS: dict[str, Callable[[_Hostile], None]] = {
    "garbage": lambda h: h.send(os.urandom(5000)),
    "empty": lambda h: h.send(b""),
    "error": lambda h: h.send(b"<html>" * 1000, 500),
    "not_found_deep": lambda h: h.send(b'{"msg":' * 50_000, 404),
    "redirect_to_file": lambda h: h.send(b"", 302, Location="file:///etc/passwd"),
    "redirect_circle": lambda h: h.send(b"", 302, Location=h.path),
    "closes": lambda h: h.connection.close(),
    "not_http": lambda h: h.wfile.write(b"\x16\x03\x01" * 500),  # type: ignore[arg-type, return-value]
    "long_header": lambda h: h.send(b"", X_Kepler_Selection="x" * 200_000),
    "cut": lambda h: h.send(_packed()[:200], Content_Length=str(len(_packed()))),
    "bomb": lambda h: h.send(_raw_zip(("metadata.json", _METADATA), ("package.json", bytes(400 * 2**20)))),
    "climbs": lambda h: h.send(_raw_zip(("metadata.json", _METADATA), ("../../escaped.json", b"{}"))),
    "no_metadata": lambda h: h.send(zip_bytes({"model.json": b"{}"})),
    "half_metadata": lambda h: h.send(_packed(metadata_json=b'{"features":')),
    "deep_metadata": lambda h: h.send(_packed(metadata_json=b'{"a":' * 200_000)),
    "metadata_list": lambda h: h.send(_packed(metadata_json=b"[]")),
    "pickles": lambda h: h.send(zip_bytes({"metadata.json": _METADATA, "m.pkl": pickle.dumps(_Exploit())})),
    "pickles_named": lambda h: h.send(_packed(package_json=pickle.dumps(_Exploit()))),
    "half_model": lambda h: h.send(_packed(model_json=b'{"layout":1')),
    "deep_model": lambda h: h.send(_packed(model_json=b'{"layout":' * 200_000)),
    "weights_not_finite": lambda h: h.send(_packed(package_json=b'{"type":"linear","weights":{},"bias":1e999}')),
    "selection_deep": lambda h: h.send(b"PK", X_Kepler_Selection='{"a":' * 5000),
    # those that take long come last
    "endless": _endless,
    "silent": _silent,
    "drip": _drip,
}


@contextmanager
def hostile_server(port: int = 0) -> Iterator[str]:
    over = threading.Event()
    handler = type("Handler", (_Hostile,), {"over": over})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            over.set()
            server.shutdown()


def complains_of(estimator: EstimatorProcess, name: str) -> bool:
    """Whether its log has a warning that names a server."""
    found = re.compile(rf"(WARNING|ERROR) .*/{name}\b")
    return any(found.search(line) for line in estimator.log.splitlines())


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EstimatorProcess]]:
    """One estimator per hostile server, all with a store too."""
    folder = tmp_path_factory.mktemp("besieged")
    publish(folder / "store", *ALL)
    with hostile_server() as url, ExitStack() as stack:
        found = {}
        for number, name in enumerate(BEHAVIOURS):
            arguments = ("-s", folder / "store", "--model-server", f"{url}/{name}")
            found[name] = EstimatorProcess(folder / f"{number}.sock", *arguments)
            stack.callback(found[name].stop)
        for estimator in found.values():
            estimator.wait_ready()
            for request in (REQUEST, watts_request(output_type="DynPower")):
                with connect(estimator.path) as connection:
                    # the first question starts the search; its reply is nobody's
                    connection.sendall(json.dumps(request).encode())
        yield found


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_hostile_model_server_is_passed_over(besieged: dict[str, EstimatorProcess], name: str) -> None:
    estimator = besieged[name]
    assert estimator.status()["origins"], "the loop answers meanwhile"
    estimator.wait_answer(REQUEST, WATTS)
    estimator.wait_answer(watts_request(output_type="DynPower"), {"package": [1.2], "dram": [0.4]})
    assert [origin for origin in estimator.origins() if not origin.startswith("store ")] == []
    estimator.check_log()
    assert not Path("pickle-was-loaded").exists()
    assert complains_of(estimator, name), "why the model server is not used"


_TURNED = ["garbage", "empty", "error", "closes", "half_metadata", "pickles", "half_model", "weights_not_finite"]


class _Turncoat(_Hostile):
    """Serves a model, then behaves as the path says, then serves another model."""

    model: LinearModel | None = ABS
    asked: Counter[str]

    def do_POST(self) -> None:
        type(self).asked[self.path] += 1
        if self.model is None:
            super().do_POST()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send(zip_bytes(self.model.stored()[1]), X_Kepler_Model="made/of/a/server")


def test_a_server_that_turns_hostile_does_not_take_the_last_good_model(tmp_path: Path) -> None:
    handler = type("Turncoat", (_Turncoat,), {"over": threading.Event(), "asked": Counter()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, ExitStack() as stack:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}"
        estimators = {name: EstimatorProcess(tmp_path / f"{name}.sock", "--model-server", f"{url}/{name}",
                                             "--refresh", "1") for name in _TURNED}  # fmt: skip
        for estimator in estimators.values():
            stack.callback(estimator.stop)
        for name, estimator in estimators.items():
            estimator.wait_ready()
            estimator.wait_answer(REQUEST, WATTS)
            assert estimator.origins() == [f"model server {url}/{name}"]
        handler.model = None
        handler.asked.clear()
        wait_for(lambda: all(handler.asked[f"/{name}"] >= 2 for name in _TURNED), "it was not asked again")
        answers = {name: estimator.ask(REQUEST)["powers"] for name, estimator in estimators.items()}
        assert answers == dict.fromkeys(_TURNED, WATTS)
        handler.model = OTHER
        for estimator in estimators.values():
            estimator.wait_answer(REQUEST, OTHER_WATTS)
        for name, estimator in estimators.items():
            assert complains_of(estimator, name), "why it was not believed"
            estimator.check_log()


# --- sockets ---


def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with estimating(tmp_path / "e.sock") as estimator:
            assert stat.S_IMODE(os.stat(estimator.path).st_mode) == 0o660
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with estimating(path, "-s", store) as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_killed_and_started_again(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    for _ in range(2):
        estimator = EstimatorProcess(path, "-s", store)
        estimator.wait_ready()
        assert estimator.ask(REQUEST)["powers"] == WATTS
        estimator.process.kill()
        estimator.process.wait(PATIENCE)
        assert path.exists()
    with estimating(path, "-s", store) as last:
        assert last.ask(REQUEST)["powers"] == WATTS


def refused(folder: Path, path: Path, text: str) -> None:
    estimator = EstimatorProcess(path, log=folder / "refused.log")
    assert estimator.process.wait(PATIENCE) == 2
    assert len(estimator.log.splitlines()) == 1, estimator.log
    assert str(path) in estimator.log
    assert text in estimator.log


def test_a_live_socket_is_an_error(store: Path, tmp_path: Path) -> None:
    with estimating(tmp_path / "e.sock", "-s", store) as estimator:
        refused(tmp_path, estimator.path, "another process listens there")
        assert estimator.ask(REQUEST)["powers"] == WATTS
        (tmp_path / "link.sock").symlink_to(estimator.path)
        refused(tmp_path, tmp_path / "link.sock", "another process listens there")
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_another_file_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    path.write_text("precious")
    refused(tmp_path, path, "not a socket")
    assert path.read_text() == "precious"
    (tmp_path / "link.sock").symlink_to(path)
    refused(tmp_path, tmp_path / "link.sock", "not a socket")
    assert path.read_text() == "precious"
    (tmp_path / "folder").mkdir()
    refused(tmp_path, tmp_path / "folder", "not a socket")
    refused(tmp_path, tmp_path / "none" / "e.sock", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path, tmp_path / "pipe", "not a socket")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        listen([str(tmp_path / ("x" * 120))])


def test_links_to_nothing_and_to_a_dead_socket_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "nothing.sock").symlink_to(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    (tmp_path / "dead.sock").symlink_to(tmp_path / "dead")
    found = listen([str(tmp_path / "nothing.sock"), str(tmp_path / "dead.sock")])
    for one in found:
        with connect(one.path):
            pass
        one.close()
        assert not os.path.lexists(one.path)


def test_several_paths(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.sock", "b.sock")]
    found = listen(names)
    try:
        assert [str(one.path) for one in found] == names
        for one in found:
            assert stat.S_IMODE(os.lstat(one.path).st_mode) == 0o660
            with connect(one.path):
                pass
    finally:
        for one in found:
            one.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [("a.sock", "b.sock"), ("b.sock", "a.sock")])
def test_one_path_may_be_a_link_to_the_other(tmp_path: Path, order: tuple[str, str]) -> None:
    """As WIRE.md has it: whichever of them a client dials, it is answered."""
    (tmp_path / "b.sock").symlink_to(tmp_path / "a.sock")
    found = listen([str(tmp_path / name) for name in order])
    try:
        for name in order:
            with connect(tmp_path / name):
                pass
    finally:
        for one in found:
            one.close()


def test_if_one_path_cannot_be_had_none_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "b.sock").write_text("")
    with pytest.raises(UsageError, match=r"b\.sock: there is a file that is not a socket"):
        listen([str(tmp_path / "a.sock"), str(tmp_path / "b.sock")])
    assert not (tmp_path / "a.sock").exists()


def test_closing_leaves_the_socket_of_another_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    (first,) = listen([str(path)])
    path.rename(tmp_path / "moved.sock")
    (second,) = listen([str(path)])
    first.close()
    with connect(path):
        pass
    second.close()
    assert not path.exists()


# --- the end ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_replies_that_are_due_are_finished(store: Path, tmp_path: Path, number: signal.Signals) -> None:
    with estimating(tmp_path / "e.sock", "-s", store, "--reply-limit", "0") as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        half, large, idle = (connect(estimator.path) for _ in range(3))
        with half, large, idle:
            half.sendall(content[:50])
            rows = watts_request([[1, 2]] * 20_000)
            large.sendall(json.dumps(rows).encode())
            large.recv(1, socket.MSG_PEEK)  # a reply that is larger than what a socket holds has begun
            estimator.ask(content)
            estimator.process.send_signal(number)
            assert idle.recv(10) == b"", "it has not been told"
            half.sendall(content[50:])
            assert parsed(half.recv(KEPLERS_READ))["powers"] == WATTS
            received = b""
            while piece := large.recv(65536):
                received += piece
            assert len(parsed(received)["powers"]["package"]) == 20_000
        assert estimator.process.wait(PATIENCE) == 0


def test_nobody_is_left_without_an_answer_at_the_end(store: Path, tmp_path: Path) -> None:
    """Every client that could connect gets its answer; the others cannot connect."""
    with estimating(tmp_path / "e.sock", "-s", store) as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        begun = threading.Barrier(5)
        unanswered: list[str] = []
        answered: list[bytes] = []

        def run() -> None:
            begun.wait(PATIENCE)
            while True:
                try:
                    connection = connect(estimator.path)
                except OSError:
                    return
                with connection:
                    try:
                        connection.sendall(content)
                        reply = connection.recv(KEPLERS_READ)
                    except OSError as error:
                        reply = repr(error).encode()
                    (answered if reply.startswith(b'{"powers":{"package":[51.2]') else unanswered).append(reply)  # type: ignore[arg-type]

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(PATIENCE)
        wait_for(lambda: len(answered) > 200, "no answers")
        estimator.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert estimator.process.wait(PATIENCE) == 0
    assert unanswered == []


def test_nobody_can_connect_while_it_ends(store: Path, tmp_path: Path) -> None:
    """Who could would wait for an answer that never comes."""
    with estimating(tmp_path / "e.sock", "-s", store) as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        with connect(estimator.path) as half, connect(estimator.path) as idle:
            half.sendall(content[:50])
            estimator.ask(content)
            estimator.process.send_signal(signal.SIGTERM)
            assert idle.recv(10) == b""
            with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
                connect(estimator.path)
            half.sendall(content[50:])
            assert parsed(half.recv(KEPLERS_READ))["powers"] == WATTS


def test_an_idle_client_does_not_hold_it(store: Path, tmp_path: Path) -> None:
    with estimating(tmp_path / "e.sock", "-s", store) as estimator, connect(estimator.path) as idle:
        estimator.ask(REQUEST)
        assert estimator.stop() == 0
        assert idle.recv(10) == b""


def test_a_model_server_of_ours_really(models: Models, tmp_path: Path) -> None:
    """`serving` and the estimator together, stopped in any order."""
    with serving(models.store, tmp_path / "s.log") as server:
        url = f"http://127.0.0.1:{server.port}"
        with estimating(tmp_path / "e.sock", environ={"MODEL_SERVER_URL": url}) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
