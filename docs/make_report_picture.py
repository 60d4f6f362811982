"""Draw the picture of a report for the README: train on a simulated recording, and show the page in Chromium.

    python docs/make_report_picture.py [FILE.png]

The default file is docs/report.png. The script needs the packages playwright and pillow, and the program chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.train import train
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.store.layout import REPORT_FILE
from kepler_core.store.local import LocalStore

PIPELINE = {
    "name": "example",
    "energy_sources": ["rapl"],
    "feature_groups": ["CounterOnly", "Basic"],
    "abs_trainers": [
        {"name": "GradientBoostingRegressorTrainer"},
        {"name": "LinearRegressionTrainer"},
        {"name": "PolynomialRegressionTrainer"},
    ],
    "dyn_trainers": [],
}
SIMULATION = Simulation(containers=6, timestamps=400, sockets=1, workloads=6, resets=0, accelerator=False, seed=7)
WIDTH_PIXELS = 1100
HEIGHT_PIXELS = 1505
COLOURS = 64
"""Number of colours of the picture. With all colours, the file would be three times as large."""
MAX_BYTES = 150_000


def report(folder: Path) -> Path:
    """Train on a simulated recording in a folder, and return the path of the report."""
    observations = observe([read_recording(recording(SIMULATION), name="simulated.json")])
    store = LocalStore(folder / "models")
    train(pipeline_from(PIPELINE, "pipeline"), observations, store, backend="threading", jobs=1)
    return folder / "models" / "example" / REPORT_FILE


def picture(page_file: Path, chromium: str) -> bytes:
    """Return the upper part of a page as a PNG file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PIXELS, "height": HEIGHT_PIXELS}, color_scheme="light")
        page.goto(page_file.as_uri())
        screen = page.screenshot()
        browser.close()
    content = io.BytesIO()
    Image.open(io.BytesIO(screen)).convert("RGB").quantize(COLOURS).save(content, "PNG", optimize=True)
    return content.getvalue()


def main() -> None:
    """Write the picture; end with an error if Chromium is missing or the picture is too large."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "report.png"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        content = picture(report(Path(folder)), chromium)
    if len(content) > MAX_BYTES:
        sys.exit(f"the picture has {len(content)} bytes, more than {MAX_BYTES}")
    target.write_bytes(content)
    print(f"{target}: {len(content)} bytes")


if __name__ == "__main__":
    main()
