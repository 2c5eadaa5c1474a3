"""Toy: a list of queries and a list of images become a benchmark, as a new file of zscir/benchmarks would say it."""

from pathlib import Path

from zscir.benchmarks.benchmark import GalleryBenchmark, RankArrays
from zscir.benchmarks.files import find_root, read_entries, read_json, string_field
from zscir.benchmarks.info import BenchmarkInfo
from zscir.benchmarks.metrics import MetricValues, recalls
from zscir.benchmarks.query import Query
from zscir.benchmarks.texts import BARE_CAPTION, one_caption

TOY = BenchmarkInfo(
    name="toy",
    title="Toy",
    splits=("val",),
    protocols=("official",),
    literature_metrics=("R@1", "R@5"),
    headline_metrics=("R@1",),
    published_split="val",
    annotation_files=lambda split, part: [f"queries.{split}.json", f"gallery.{split}.json"],
    text_makers={**BARE_CAPTION, "tscir": one_caption("a photo of * that {0}")},
    loader=lambda request: load_toy(request.root, request.split, request.protocol),
    submission=None,
    release_facts=False,
)


class Toy(GalleryBenchmark):
    """R@1 and R@5 of the target."""

    info = TOY

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        return recalls("R", ranks["targets"][:, 0], (1, 5))


def load_toy(root: Path | str, split: str, protocol: str) -> Toy:
    """Queries (reference, text, target) and the gallery's image ids. RequestError names the file and entry at fault."""
    file, how_to_get = f"queries.{split}.json", "write it yourself"
    base = find_root(root, ("toy",), file, how_to_get)
    queries = []
    for number, entry in enumerate(read_entries(base / file, how_to_get)):
        reference, text, target = (string_field(entry, name, file) for name in ("reference", "text", "target"))
        queries.append(Query(str(number), reference, (text,), (target,)))
    gallery = read_json(base / f"gallery.{split}.json", list, how_to_get)
    return Toy(split, protocol, queries, gallery)
