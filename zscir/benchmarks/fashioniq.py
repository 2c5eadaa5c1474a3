"""FashionIQ: R@K of the target, one category at a time; the protocol decides the gallery.

Protocols (never comparable): ``original`` ranks the whole split and keeps the reference (the zero-shot literature);
``val`` ranks references and targets only (VAL, CoSMo); ``pli`` also takes the reference out of its query's ranking;
``pli_orders`` further scores each query twice, once per caption order, as PLI's evaluator does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zscir.benchmarks.benchmark import GalleryBenchmark, RankArrays
from zscir.benchmarks.files import (
    AnnotationEntry,
    check_distinct_ids,
    find_root,
    read_entries,
    read_json,
    string_field,
    strings_field,
)
from zscir.benchmarks.info import BenchmarkInfo, OfficialCounts
from zscir.benchmarks.metrics import MetricValues, recalls
from zscir.benchmarks.query import Query
from zscir.benchmarks.texts import both_orders, clip4cir_captions, two_captions
from zscir.runtime.errors import RequestError

FASHIONIQ_CUTOFFS = (1, 5, 10, 50)
HOW_TO_GET_FASHIONIQ = "git clone https://github.com/XiaoxiaoGuo/fashion-iq (captions/ and image_splits/)"


def _official_counts(counts: OfficialCounts, split: str, part: str, protocol: str) -> tuple[int, int] | None:
    """The facts hold [queries, whole split, references and targets] of a category: a gallery per protocol."""
    own = counts.get(split, {}).get(part)
    if own is None:
        return None
    orders = 2 if protocol == "pli_orders" else 1
    return orders * int(own[0]), int(own[1 if protocol == "original" else 2])


FASHIONIQ = BenchmarkInfo(
    name="fashioniq",
    title="FashionIQ",
    splits=("val", "test", "train"),
    protocols=("original", "val", "pli", "pli_orders"),
    parts=("dress", "shirt", "toptee"),
    part_argument="category",
    part_noun="categories",
    literature_metrics=("R@10", "R@50"),
    headline_metrics=("R@10",),
    published_split="val",
    annotation_files=lambda split, category: [
        f"captions/cap.{category}.{split}.json",
        f"image_splits/split.{category}.{split}.json",
    ],
    text_makers={
        "searle": both_orders("a photo of $ that {0} and {1}", strip=True),
        "pic2word": two_captions("a photo of * , {0} and {1}", strip=False, swap=True),
        "clip4cir": clip4cir_captions,
        "cirevl": two_captions("{0} and {1}", strip=True, swap=False),
        "pli": both_orders("{0} and {1}", strip=False),
        "tscir": two_captions("a photo of * , that {0} and {1}", strip=False, swap=True),
        "tscir_training": two_captions("a photo of * that {0} and {1}", strip=False, swap=True),
        "raw": two_captions("{0} and {1}", strip=False, swap=False),
    },
    loader=lambda request: load_fashioniq(request.root, request.split, request.part, request.protocol),
    submission=None,
    expected_counts=_official_counts,
)


class FashionIQ(GalleryBenchmark):
    """R@1, R@5, R@10, R@50 of the target; the literature prints R@10 and R@50."""

    info = FASHIONIQ

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        return recalls("R", ranks["targets"][:, 0], FASHIONIQ_CUTOFFS)


def load_fashioniq(root: Path | str, split: str, category: str | None, protocol: str) -> FashionIQ:
    """One category of FashionIQ below ``root`` (the official clone). RequestError names the file and entry at fault."""
    if category not in FASHIONIQ.parts:
        raise RequestError(f"fashioniq: category {category!r} is not one of {', '.join(FASHIONIQ.parts)}")
    captions = f"captions/cap.{category}.{split}.json"
    base = find_root(root, ("FashionIQ", "fashioniq", "fashion-iq"), captions, HOW_TO_GET_FASHIONIQ)
    entries = read_entries(base / captions, HOW_TO_GET_FASHIONIQ)
    queries = [_query(index, entry, f"{base / captions}: entry {index}") for index, entry in enumerate(entries)]
    gallery = _gallery(base / f"image_splits/split.{category}.{split}.json")
    if protocol != "original":
        used = {image_id for query in queries for image_id in (query.reference, *query.targets)}
        gallery = [image_id for image_id in gallery if image_id in used] if used <= set(gallery) else gallery
    if protocol in ("pli", "pli_orders"):
        queries = [replace(query, exclude=(query.reference,)) for query in queries]
    if protocol == "pli_orders":
        queries = [ordered for query in queries for ordered in _both_orders(query)]
    return FashionIQ(split, protocol, queries, gallery, category)


def _query(index: int, entry: AnnotationEntry, where: str) -> Query:
    captions = strings_field(entry, "captions", where)
    if len(captions) != 2:
        raise RequestError(f"{where}: {len(captions)} captions, expected 2")
    targets = (string_field(entry, "target", where),) if "target" in entry else ()
    return Query(str(index), string_field(entry, "candidate", where), captions, targets)


def _both_orders(query: Query) -> tuple[Query, Query]:
    backward = tuple(reversed(query.captions))
    return (
        replace(query, query_id=f"{query.query_id}/forward"),
        replace(query, query_id=f"{query.query_id}/reversed", captions=backward),
    )


def _gallery(path: Path) -> list[str]:
    ids = read_json(path, list, HOW_TO_GET_FASHIONIQ)
    for index, image_id in enumerate(ids):
        if not isinstance(image_id, str):
            raise RequestError(f"{path}: entry {index} is {image_id!r}, expected an image id")
    return check_distinct_ids(ids, str(path))
