"""A small pipeline from a URL list to images, for tests of who makes its chunks, where, and what becomes of them."""

from pathlib import Path

from tests.support.toy_pipelines import write_toy

SOURCE = """
name = "toy"
[tabletop]
scenes = {scenes}
size_px = 32
[ingest]
source = "toy"
text_column = "caption"
[download]
chunk_rows = {chunk_rows}
deadline_s = 20.0
retries = 0
"""
STEPS = """
name = "{name}"
source = "source.toml"
[[steps]]
stage = "tabletop"
[[steps]]
stage = "ingest"
inputs = {{ urls = "tabletop" }}
[[steps]]
stage = "download"
inputs = {{ pairs = "ingest" }}
"""


def write_list(folder: Path, scenes: int = 24, chunk_rows: int = 8, name: str = "toy", more: str = "") -> Path:
    """The pipeline file, in ``folder`` beside its source; ``more`` is what else is said of its last step."""
    return write_toy(folder, STEPS.format(name=name) + more, SOURCE.format(scenes=scenes, chunk_rows=chunk_rows))
