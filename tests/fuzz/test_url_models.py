"""Fuzz the files at a configured URL, and the answers of a model server.

Each file or answer gives finite watts, or a one-line error message.
"""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz, mostly
from support.server_process import check_one_line
from support.small_pipelines import linear

from kepler_core.errors import KeplerError
from kepler_core.selection import ModelRequest
from kepler_core.store.layout import zip_bytes
from kepler_servers.estimator.remote_providers import ModelServerProvider, UrlProvider

FEATURES = ("bpf_cpu_time_ms", "bpf_net_tx_irq", "x")
REQUEST = ModelRequest("AbsPower", FEATURES, "rapl-sysfs", machine_spec={"cores": 48}, portable=True)
ROWS = np.array([[0.0, 0.0, 0.0], [1e3, 1.0, 1.0], [1e6, 1e6, 1e6], [1e15, 1e15, 1e15], [0.0, 1e9, -1e9]])

INDEX = "../../../node_type_index.json"

numbers = mostly(st.integers(-10, 1000) | st.floats(-1e15, 1e15), st.floats() | st.integers())
odd = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=5), st.lists(numbers, max_size=3), st.just({}),
    st.sampled_from(["x" * 5000, "../../x_0", "X_0", "a\nb_1", "SGDRegressorTrainer_0", "\ud800", 10**400, 2**60]),
)  # fmt: skip
variables = st.fixed_dictionaries(
    {
        "scale": mostly(st.sampled_from([1000.0, 1.0, 0, 0.5]), numbers | odd),
        "weight": mostly(st.sampled_from([2.5, -11.7, 0, 1e15]), numbers | odd),
    }
)
components = st.builds(
    lambda weights: {"All_Weights": weights},
    st.fixed_dictionaries(
        {
            "Bias_Weight": mostly(st.sampled_from([30.0, -5, 0]), numbers | odd),
            "Categorical_Variables": mostly(st.just({}), odd),
            "Numerical_Variables": mostly(
                st.dictionaries(st.sampled_from(FEATURES), variables, max_size=3),
                st.dictionaries(st.text(max_size=5), variables, max_size=3) | odd,
            ),
        },
        optional={"CurveFit_Weights": mostly(st.lists(numbers, min_size=3, max_size=4), odd)},
    ),
)
specs = mostly(
    st.fixed_dictionaries({"cores": st.just(96) | numbers | odd, "processor": st.just("x") | odd}),
    odd,
)
metadata = {
    "model_name": mostly(st.sampled_from(["SGDRegressorTrainer_0", "XgboostFitTrainer_0"]), odd),
    "machine_spec": specs,
    "mae": mostly(numbers, odd),
}
weight_documents = st.fixed_dictionaries(
    {"package": mostly(st.just(linear(30.0, {"bpf_cpu_time_ms": 2.5})), components | odd)},
    optional={
        "dram": components,
        "core": components,
        "platform": components,
        "selection": odd | st.fixed_dictionaries({"model": odd, "node_type": odd, "error": odd, "stands_in_for": odd}),
        **metadata,
    },
)
model_documents = st.fixed_dictionaries(
    {"features": mostly(st.just(["bpf_cpu_time_ms"]), odd)},
    optional={
        "output_type": mostly(st.sampled_from(["AbsPower", "DynPower"]), odd),
        "source": mostly(st.sampled_from(["rapl-sysfs", "acpi"]), odd),
        "feature_group": mostly(st.just("BPFOnly"), odd),
        **metadata,
    },
)


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


weights = mostly(weight_documents.map(encoded), damaged(weight_documents.map(encoded)))
archives = st.fixed_dictionaries(
    {"metadata.json": mostly(model_documents.map(encoded), damaged(model_documents.map(encoded)))},
    optional={
        "weight.json": weights,
        "XgboostFitTrainer_0.json": weights,
        "model.json": st.just(b"{}") | st.binary(max_size=20),
    },
).map(zip_bytes)
indices = mostly(
    st.dictionaries(st.sampled_from(["0", "1", "x", "9" * 5000]), st.fixed_dictionaries({"attrs": specs})).map(encoded),
    st.binary(max_size=20),
)
folders = st.fixed_dictionaries(
    {"XgboostFitTrainer_0.zip": mostly(archives, damaged(archives))},
    optional={
        "XgboostFitTrainer_0.json": weights,
        "SGDRegressorTrainer_0.zip": mostly(archives, damaged(archives)),
        "SGDRegressorTrainer_0.json": weights,
        INDEX: indices,
    },
)


def check_offer(provider: UrlProvider | ModelServerProvider) -> None:
    """Check that a provider's model gives finite watts of at least 0, or that the provider raises a one-line error."""
    try:
        offer = provider.offer(REQUEST)
        model = offer.load()
    except KeplerError as error:
        check_one_line(error, longest=6000)
        return
    assert offer.remark.isprintable()
    json.dumps(offer.why, allow_nan=False)
    for watts in model.predict(ROWS[:, [FEATURES.index(name) for name in model.features]], model.features).values():
        assert np.isfinite(watts).all()
        assert (watts >= 0).all()


def check_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write files to a folder of models, and check the model that the estimator gets from each file."""
    for path in (*folder.iterdir(), folder / INDEX):
        path.unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name in files:
        if "/" not in name:
            check_offer(UrlProvider({"NODE_COMPONENTS_INIT_URL": str(folder / name)}))


def test_files_at_a_url(tmp_path: Path) -> None:
    folder = tmp_path / "rapl-sysfs" / "AbsPower" / "BPFOnly"
    folder.mkdir(parents=True)
    fuzz(folders, lambda files: check_folder(folder, files))


bodies = mostly(
    weights | archives, damaged(archives) | st.binary(max_size=20) | odd.map(lambda text: encoded({"msg": text}))
)
selections = st.fixed_dictionaries({"model": odd, "node_type": odd | st.fixed_dictionaries({"machine_spec": specs})})
answers = st.tuples(
    mostly(st.just(200), st.sampled_from([400, 404, 500, 503])),
    mostly(selections.map(json.dumps), st.text('{}[]:"a1,', max_size=20)),
    bodies,
)


def test_answers_of_a_model_server() -> None:
    """Whatever a model server answers, the result is finite watts or an error.

    To get one model, a provider sends up to three requests. The test server sends the random answers one by one.
    """
    queue: list[tuple[int, str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, selection, body = queue.pop(0)
            self.send_response(status)
            self.send_header("X-Kepler-Selection", selection)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def check_answers(drawn: list[tuple[int, str, bytes]]) -> None:
        queue[:] = drawn
        check_offer(ModelServerProvider(f"http://127.0.0.1:{server.server_port}/model"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            fuzz(st.lists(answers, min_size=3, max_size=3), check_answers)
        finally:
            server.shutdown()
