"""An image that crashes the decoder costs itself, and not the chunk that it is in."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults.downloads import pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from tests.faults.matrix import Measured
from tests.faults.test_download_crashes import CHILD, REPO, write_spec
from zscir.runtime.schemas import IMAGES_SCHEMA, read_rows

# Stands before OpenCV on the path: the same, but a picture of one certain size kills the process that decodes it.
POISONED = """
import os, sys
here = os.path.dirname(__file__)
sys.path.remove(here)
del sys.modules["cv2"]
import cv2 as real
sys.path.insert(0, here)
decode = real.imdecode
def imdecode(*arguments):
    image = decode(*arguments)
    if image is not None and image.shape[:2] == (77, 333):
        os.abort()
    return image
real.imdecode = imdecode
sys.modules["cv2"] = real
"""


def test_an_image_that_kills_the_decoder_costs_itself_alone(tmp_path: Path, measured: Measured) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "cv2.py").write_text(POISONED)
    with HostileServer() as server:
        paths = ["/ok/1.jpg", "/photo/333/77/1.jpg", "/ok/2.jpg", "/status/404", "/photo/334/77/2.jpg"]
        pairs_in(tmp_path / "pairs", [(server.url(path), path) for path in paths])
        spec = spec_for(server, chunk_rows=100)
        write_spec(tmp_path, spec)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path")}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path], cwd=REPO, env=environment, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip
        requested = Counter(path for path in server.paths() if path in paths)
    assert done.returncode == 0, done.stderr
    [images] = tmp_path.glob("store/download/*/images.parquet")
    found = {row["text"]: (row["status"], row["error_class"]) for row in read_rows(images, IMAGES_SCHEMA)}
    assert found == {
        "/ok/1.jpg": ("ok", None), "/photo/333/77/1.jpg": ("failed", "bad_image"), "/ok/2.jpg": ("ok", None),
        "/status/404": ("failed", "http_404"), "/photo/334/77/2.jpg": ("ok", None),
    }  # fmt: skip
    measured(
        "an image that crashes or hangs the decoder",
        f"1 of {len(paths)} URLs crashes it: 1 image lost, requests made again: {requested.total() - len(requested)}",
    )
