"""Pictures that were imported, not downloaded, stand in the report like any other."""

import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.support.toy_pipelines import run_toy
from tests.support.toys import store_at
from zscir.data.images.shards import write_shard
from zscir.report.masked_examples import masked_sheets
from zscir.report.page import write_report
from zscir.report.run_data import read_record
from zscir.report.triplet_examples import pair_sheets

SOURCE = """
name = "mine"
about = "x"
images = "pictures"
urls = "list.jsonl"
shards = "tars"
expected_rows = 9
[ingest]
source = "mine"
url_prefix = "file:"
url_column = "file"
text_column = "caption"
[import_images]
image_size = 32
[import_shards]
source = "mine"
image_size = 32
"""
FOLDER = """
name = "folder"
source = "source.toml"
steps = [
  { stage = "ingest", inputs = { urls = "source" } },
  { stage = "import_images", inputs = { pairs = "ingest", images = "source" } },
  { stage = "mask_triplets", spec = { ratio = 0.5 }, inputs = { images = "import_images" } },
]
"""
TARS = """
name = "tars"
source = "source.toml"
steps = [
  { stage = "import_shards", inputs = { shards = "source" } },
  { stage = "mask_triplets", spec = { ratio = 0.5 }, inputs = { images = "import_shards" } },
]
"""


@pytest.mark.parametrize(("steps", "tile"), [(FOLDER, "images tried"), (TARS, "samples tried")])
def test_an_import_is_shown_from_its_pictures_to_its_masks(
    tmp_path: Path, steps: str, tile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "1")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "tars").mkdir()
    members = []
    for number in range(4):
        stream = BytesIO()
        Image.new("RGB", (48, 40), (60 * number, 0, 90)).save(stream, "JPEG")
        (tmp_path / f"pictures/{number}.jpg").write_bytes(stream.getvalue())
        members += [(f"{number}.jpg", stream.getvalue()), (f"{number}.txt", f"caption {number}".encode())]
    write_shard(tmp_path / "tars/00000.tar", members)
    rows = [{"file": f"{number}.jpg", "caption": f"caption {number}"} for number in range(4)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "source.toml").write_text(SOURCE)
    (tmp_path / "mine.toml").write_text(steps)
    store = store_at(tmp_path / "store", tmp_path / "cache")
    run_toy(store, tmp_path / "mine.toml")
    record = read_record(store, "latest")
    (sheet,) = pair_sheets(record)
    assert [card.text for card in sheet.cards] == [f"caption {number}" for number in range(4)]
    assert all(card.pictures[0].picture.uri for card in sheet.cards)
    (masked,) = masked_sheets(record)
    assert all(shot.picture.uri for card in masked.cards for shot in card.pictures)
    page = write_report(store, "latest", tmp_path / "report.html").read_text()
    assert tile in page
    assert "rows off <b>-5</b>" in page
