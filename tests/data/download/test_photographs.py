"""A user's own list of photographs of all sizes goes from a CSV to training shards."""

from pathlib import Path

import numpy as np

from tests.faults.downloads import download
from tests.faults.hostile_server import HostileServer
from zscir.data.download.specs import DownloadSpec
from zscir.data.images.decode import decode_image
from zscir.data.images.shards import ShardReader
from zscir.runtime.schemas import PACKED_SCHEMA, TRIPLETS_SCHEMA, read_rows, write_table
from zscir.stages.ingest import IngestSpec, ingest
from zscir.stages.pack import PackSpec, pack
from zscir.store.artifacts import Artifact


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_photographs_of_all_sizes_come_through(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(w), int(h)) for w, h in np.exp(rng.uniform(np.log(40), np.log(2500), (40, 2)))]
    with HostileServer() as server:
        lines = [f'{server.url(f"/photo/{w}/{h}/{n}.jpg")},"A ""photo"", {w} by {h}"' for n, (w, h) in enumerate(sizes)]
        (made(tmp_path / "lists") / "mine.csv").write_text("\n".join(["url,text", *lines, "no-url,x"]))
        pairs = made(tmp_path / "pairs")
        ingest(IngestSpec(source="mine"), urls=Artifact.of_folder(tmp_path / "lists"), out=pairs)
        spec = DownloadSpec(allow_hosts=server.hosts, chunk_rows=20, image_size=256, per_host=16)
        images = download(tmp_path, spec, Artifact.of_folder(pairs))
    assert (images.facts["rows"], images.facts["ok"]) == (40, 40)
    rows = images.rows()
    for row, (width, height) in zip(rows, sizes, strict=True):
        assert row["text"] == f'A "photo", {width} by {height}'
        assert (row["original_width"], row["original_height"]) == (width, height)
        assert min(row["width"], row["height"]) == min(256, width, height)

    triplets = [
        {
            "triplet_id": f"t{n}", "source": "masked", "text": row["text"], "mask_seed": n, "mask_ratio": 0.75,
            "reference_key": row["image_key"], "target_key": row["image_key"],
        }
        for n, row in enumerate(rows)
    ]  # fmt: skip
    write_table(made(tmp_path / "triplets") / "triplets.parquet", TRIPLETS_SCHEMA, triplets)
    packed = made(tmp_path / "packed")
    given = {"triplets": Artifact.of_folder(tmp_path / "triplets"), "images": images.artifact}
    assert pack(PackSpec(size_px=128, shard_rows=15), **given, out=packed) == {"rows": 40, "rejects": 0, "shards": 3}
    with ShardReader(lambda shard: packed / shard) as reader:
        for row, stored in zip(read_rows(packed / "index.parquet", PACKED_SCHEMA), rows, strict=True):
            image = decode_image(reader.read(row["shard"], row["reference_offset"], row["reference_size"]))
            assert min(image.size) == min(128, stored["width"], stored["height"])
