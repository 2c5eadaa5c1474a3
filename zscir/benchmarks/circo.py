"""CIRCO: mAP@K over several right answers, R@K of the annotated target, mAP@10 by kind of change.

Protocols: ``official`` ranks the whole gallery, the reference too; ``reference_excluded`` takes it out (PLI), which can
only help, since a reference is never a right answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zscir.benchmarks.benchmark import GalleryBenchmark, RankArrays
from zscir.benchmarks.files import (
    AnnotationEntry,
    check_distinct_ids,
    coco_id,
    find_root,
    integer_field,
    integers_field,
    read_entries,
    read_json,
    string_field,
    strings_field,
)
from zscir.benchmarks.info import BenchmarkInfo, ImageNaming
from zscir.benchmarks.metrics import MetricValues, average_precisions, metric_values_of, recalls
from zscir.benchmarks.query import Query
from zscir.benchmarks.ranking import ScoreBlock
from zscir.benchmarks.submission import check_keys, circo_files
from zscir.benchmarks.texts import BARE_CAPTION, SEARLE_TEXT, one_caption
from zscir.runtime.errors import RequestError

CIRCO_CUTOFFS = (5, 10, 25, 50)
ASPECT_CUTOFF = 10
ASPECTS = (
    "cardinality",
    "addition",
    "negation",
    "direct_addressing",
    "compare_change",
    "comparative_statement",
    "statement_with_conjunction",
    "spatial_relations_background",
    "viewpoint",
)
HOW_TO_GET_CIRCO = "git clone https://github.com/miccunifi/CIRCO (annotations/)"
COCO_IMAGE_LISTS = (
    "annotations/image_info_unlabeled2017.json",
    "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
    "image_info_unlabeled2017.json",
    "image_info.json",
)
HOW_TO_GET_COCO_IMAGES = "http://images.cocodataset.org/annotations/image_info_unlabeled2017.zip, or pass gallery_ids"


def _loose_name(path: str) -> str:
    """COCO's files are called by twelve digits (``000000000042.jpg``), its images by the number."""
    stem = PurePosixPath(path).stem
    return str(int(stem)) if stem.isdecimal() else stem


CIRCO = BenchmarkInfo(
    name="circo",
    title="CIRCO",
    splits=("val", "test"),
    protocols=("official", "reference_excluded"),
    literature_metrics=("mAP@5", "mAP@10", "mAP@25", "mAP@50"),
    headline_metrics=("mAP@5",),
    published_split="test",  # through the server; val has 220 queries
    annotation_files=lambda split, part: [f"annotations/{split}.json"],
    text_makers={
        **BARE_CAPTION,
        "searle": one_caption(SEARLE_TEXT),
        "pic2word": one_caption("a photo of * , {0}"),
        "tscir": one_caption("a photo of * that {0}"),
        "tscir_training": one_caption("a photo of * that {0}"),
        "shared_concept": one_caption("find {1} but {0}"),  # MagicLens: another, easier input; never beside the others
    },
    loader=lambda request: load_circo(request.root, request.split, request.gallery_ids, request.protocol),
    submission=lambda bench, blocks: bench.submission_files(blocks),
    gallery_id=coco_id,  # COCO's list of images is a file of its own, which not everyone has at hand
    aspects=ASPECTS,
    aspect_metric=f"mAP@{ASPECT_CUTOFF}",
    images=ImageNaming(loose_name=_loose_name),
)


class Circo(GalleryBenchmark):
    """mAP@5, 10, 25, 50; R@K of the annotated target; semantic_mAP@10 for each kind of change (CIRCO, section 3)."""

    info = CIRCO
    how_to_get_gallery = HOW_TO_GET_COCO_IMAGES

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        ranks_QT = ranks["targets"]
        answers = np.array([len(query.targets) for query in self.queries])
        precisions = {cut: average_precisions(ranks_QT, answers, cut) for cut in CIRCO_CUTOFFS}
        means = [metric_values_of(f"mAP@{cut}", values) for cut, values in precisions.items()]
        return means + recalls("R", ranks_QT[:, 0], CIRCO_CUTOFFS) + self._by_aspect(precisions[ASPECT_CUTOFF])

    def score_predictions(self, predictions: Mapping[Any, Sequence[Any]]) -> dict[str, float]:
        """Metric -> percent of ranked id lists, best first: what the server computes from a submission file.

        A list may be shorter than K. RequestError for missing or unknown queries, and for ids that are repeated; the
        server refuses these too.
        """
        self._check_has_answers()
        lists = check_keys(predictions, [query.query_id for query in self.queries], self.where, coco_id)
        ranks = np.zeros((len(self.queries), max(len(query.targets) for query in self.queries)), dtype=np.int64)
        for index, query in enumerate(self.queries):
            rank = {image_id: place for place, image_id in enumerate(lists[query.query_id], start=1)}
            ranks[index, : len(query.targets)] = [rank.get(target, 0) for target in query.targets]
        return {metric.name: metric.percent for metric in self.metrics_from_ranks({"targets": ranks})}

    def _by_aspect(self, values: Any) -> list[MetricValues]:
        rows = {
            aspect: np.array([i for i, query in enumerate(self.queries) if aspect in query.aspects], dtype=np.int64)
            for aspect in sorted({a for query in self.queries for a in query.aspects}, key=_aspect_order)
        }
        return [
            MetricValues(f"semantic_mAP@{ASPECT_CUTOFF}/{aspect}", values[at], at, graded=True)
            for aspect, at in rows.items()
        ]

    def submission_files(self, blocks: Iterable[tuple[slice, ScoreBlock]]) -> dict[str, dict[str, Any]]:
        """The one file of CIRCO's server: the best 50 of the gallery."""
        lists = []
        for rows, block in blocks:
            lists += [[self.gallery[column] for column in best] for best in self.top(block, rows, 50)]
        return circo_files(self.split, self.queries, self.gallery, lists)


def load_circo(root: Path | str, split: str, gallery_ids: Iterable[Any] | None, protocol: str) -> Circo:
    """CIRCO below ``root`` (the official clone). The gallery is ``gallery_ids``, else COCO's image list if it is there;
    without either, texts and prediction lists still work, and ranking is a RequestError."""
    annotations = f"annotations/{split}.json"
    base = find_root(root, ("CIRCO", "circo"), annotations, HOW_TO_GET_CIRCO)
    entries = read_entries(base / annotations, HOW_TO_GET_CIRCO)
    excluded = protocol == "reference_excluded"  # PLI's; the server ranks the reference too
    queries = [_query(entry, excluded, f"{base / annotations}: entry {i}") for i, entry in enumerate(entries)]
    # The server wants one list for each id 0..n-1.
    for index, query in enumerate(queries):
        if query.query_id != str(index):
            raise RequestError(
                f"{base / annotations}: entry {index} has id {query.query_id}; ids are 0..n-1 in file order"
            )
    return Circo(split, protocol, queries, _gallery(base, gallery_ids))


def _query(entry: AnnotationEntry, excluded: bool, where: str) -> Query:
    reference = str(integer_field(entry, "reference_img_id", where))
    return Query(
        query_id=str(integer_field(entry, "id", where)),
        reference=reference,
        captions=(string_field(entry, "relative_caption", where),),
        targets=_targets(entry, reference, where) if "gt_img_ids" in entry else (),
        exclude=(reference,) if excluded else (),
        aspects=strings_field(entry, "semantic_aspects", where) if "semantic_aspects" in entry else (),
        shared_concept=string_field(entry, "shared_concept", where),
    )


def _targets(entry: AnnotationEntry, reference: str, where: str) -> tuple[str, ...]:
    """All right answers, the annotated target first."""
    answers = check_distinct_ids(map(str, integers_field(entry, "gt_img_ids", where)), f"{where}: gt_img_ids")
    target = str(integer_field(entry, "target_img_id", where))
    if target not in answers or reference in answers:
        raise RequestError(f"{where}: gt_img_ids must hold target_img_id {target} and not the reference {reference}")
    return (target, *(answer for answer in answers if answer != target))


def _gallery(base: Path, gallery_ids: Iterable[Any] | None) -> list[str] | None:
    if gallery_ids is not None:
        return check_distinct_ids(map(coco_id, gallery_ids), "circo: gallery_ids")
    for name in COCO_IMAGE_LISTS:
        if (base / name).is_file():
            images = read_json(base / name, dict, HOW_TO_GET_COCO_IMAGES).get("images")
            if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
                raise RequestError(
                    f"{base / name}: 'images' is not a list of objects. Get it: {HOW_TO_GET_COCO_IMAGES}"
                )
            ids = (str(integer_field(image, "id", f"{base / name}: images[{i}]")) for i, image in enumerate(images))
            return check_distinct_ids(ids, str(base / name))
    return None


def _aspect_order(aspect: str) -> tuple[int, str]:
    return (ASPECTS.index(aspect) if aspect in ASPECTS else len(ASPECTS), aspect)
