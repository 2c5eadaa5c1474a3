"""The files and servers that the commands of the documentation speak of."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.docs.pages import blocks
from tests.walk.conftest import SETS, Shell

PHOTOS = 40


@contextmanager
def photo_server(folder: Path) -> Iterator[str]:
    """A web server of real-sized pictures, which are in ``folder``."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        width, height = (int(side) for side in rng.integers(200, 1600, 2))
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        data = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG")
        (folder / f"{number}.jpg").write_bytes(data.getvalue())
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def photo_files(folder: Path, server: str) -> None:
    """photos.toml as the README shows it, with this server allowed, and the list that it names."""
    nouns = ("red boat on a lake", "blue boat on a lake", "red car in a street", "blue car in a street", "dog on grass")
    captions = [f"a {nouns[number % 5]} {('at dawn', 'at night', 'in snow')[number % 3]}" for number in range(PHOTOS)]
    urls = [f"http://{server}/{number}.jpg" for number in range(PHOTOS)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), folder / "photos.parquet")
    text = next(block.text for block in blocks("toml", "README.md") if "photos.parquet" in block.text)
    (folder / "photos.toml").write_text(f'{text}\n[download]\nallow_hosts = ["{server}"]\n', encoding="utf-8")


def score_files(folder: Path) -> None:
    """A tiny benchmark folder and features, for the scoring command."""
    root = folder / "ROOT"
    members = [f"dev-{number}" for number in range(6)]
    splits = {name: f"./dev/{name}.png" for name in members}
    entry = {
        "pairid": 1, "reference": "dev-0", "target_hard": "dev-1", "target_soft": {"dev-1": 1.0}, "caption": "is red",
        "img_set": {"id": 1, "members": members, "reference_rank": 0, "target_rank": 1},
    }  # fmt: skip
    for name, value in (("captions/cap.rc2.val.json", [entry]), ("image_splits/split.rc2.val.json", splits)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    rng = np.random.default_rng(0)
    np.save(folder / "q.npy", rng.normal(size=(1, 8)).astype(np.float32))
    np.save(folder / "g.npy", rng.normal(size=(6, 8)).astype(np.float32))


def small(words: list[str]) -> list[str]:
    """The command at the size of a test."""
    if words[1] == "demo" or "data_specs/pipelines/tabletop.toml" in words:
        return [*words, *SETS]
    if words[1] == "run":
        steps = [
            f"train_{name}.{field}"
            for name in ("pli", "tscir_map", "tscir_compose")
            for field in ("steps", "batch_size")
        ]
        return [*words, *(word for step in steps for word in ("--set", f"{step}=4"))]
    return words


def token_of(shell: Shell, pipeline: str) -> str:
    """The token that `zscir plan` gives for a pipeline now."""
    done = shell.zscir(*small(["zscir", "plan", pipeline, "--json"])[1:])
    return str(json.loads(done.stdout)[0]["token"])
