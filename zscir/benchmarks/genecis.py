"""GeneCIS: R@K in each query's own short list of candidates, one task at a time; the target stands first in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.benchmark import Benchmark, RankArrays
from zscir.benchmarks.files import AnnotationEntry, find_root, integer_field, object_field, read_entries, string_field
from zscir.benchmarks.info import BenchmarkInfo, ImageNaming, OfficialCounts, RegionBox
from zscir.benchmarks.metrics import MetricValues, recalls
from zscir.benchmarks.missing_images import protocol_without_images
from zscir.benchmarks.query import Query
from zscir.benchmarks.ranking import Ints, NumpyScoreBlock, ScoreBlock, Scorer
from zscir.benchmarks.similarity import (
    SCORE_BLOCK_BYTES,
    check_features,
    pairwise_cosines,
    row_blocks,
    score_blocks,
    unit_rows,
)
from zscir.benchmarks.texts import BARE_CAPTION, SEARLE_TEXT, one_caption
from zscir.runtime.errors import RequestError

GENECIS_CUTOFFS = (1, 2, 3)
HOW_TO_GET_GENECIS = "git clone https://github.com/facebookresearch/genecis (genecis/*.json)"
_REGION_ID = re.compile(r"(.+)\[([^,\]]+),([^,\]]+),([^,\]]+),([^,\]]+)\]")


def _indexed_name(image_id: str) -> str:
    """The file that a region is cut from (Visual Genome's) or that an image is (COCO's), as ``member`` names it."""
    region = _REGION_ID.fullmatch(image_id)
    if region is not None:
        return f"vg/{region[1]}.jpg"
    return f"coco/{int(image_id):012d}.jpg" if image_id.isdecimal() else image_id


def _region_box(image_id: str) -> RegionBox | None:
    """The box of ``image[x,y,width,height]``; None for a whole image."""
    region = _REGION_ID.fullmatch(image_id)
    try:
        return None if region is None else (float(region[2]), float(region[3]), float(region[4]), float(region[5]))
    except ValueError:
        return None


def _official_counts(counts: OfficialCounts, split: str, part: str, protocol: str) -> tuple[int, int] | None:
    """The facts hold [queries, candidates of each query] of a task."""
    own = counts.get(part)
    return None if own is None else (int(own[0]), int(own[1]))


GENECIS = BenchmarkInfo(
    name="genecis",
    title="GeneCIS",
    splits=("val",),
    protocols=("official",),
    parts=("focus_attribute", "change_attribute", "focus_object", "change_object"),
    part_argument="task",
    part_noun="tasks",
    literature_metrics=("R@1", "R@2", "R@3"),
    headline_metrics=("R@1",),
    published_split="val",
    annotation_files=lambda split, task: [f"{task}.json"],
    text_makers={
        **BARE_CAPTION,
        "searle": one_caption(SEARLE_TEXT),
        "pic2word": one_caption(SEARLE_TEXT),  # the published Pic2Word numbers are LinCIR's, with LinCIR's string
        "tscir": one_caption("a photo of * that {0}"),
        "tscir_training": one_caption("a photo of * that {0}"),
    },
    loader=lambda request: load_genecis(request.root, request.part),
    submission=None,
    images=ImageNaming(
        index_column="member",  # image ids of Visual Genome and COCO overlap; their files lie in vg/ and coco/
        indexed_name=_indexed_name,
        loose_name=str,
        region_box=_region_box,
    ),
    expected_counts=_official_counts,
)


class Genecis(Benchmark):
    """R@1, 2, 3 of the target among a query's own candidates; the target stands first and so wins exact ties."""

    info = GENECIS

    def __init__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]], task: str) -> None:
        super().__init__("val", "official", queries, task)
        self.candidates = [list(row) for row in candidates]
        self._gallery = list(dict.fromkeys(region_id for row in self.candidates for region_id in row))
        columns = {region_id: column for column, region_id in enumerate(self._gallery)}
        in_gallery = [[columns[region_id] for region_id in row] for row in self.candidates]
        self.candidates_QC: Ints = np.array(in_gallery, dtype=np.int64)

    @property
    def gallery(self) -> list[str]:
        """The ids of all candidate regions, in order of first appearance."""
        return self._gallery

    def blocks(self, query: Any, gallery: Any, scorer: Scorer = score_blocks) -> Iterator[tuple[slice, ScoreBlock]]:
        """Yield (rows, cosines [rows, 1+G]); features are [Q, 1+G, D], or [regions, D] in the order of ``gallery``.

        Whatever the ``scorer``, a query's own few candidates are compared here: moving them would take longer.
        """
        query_QD, features = np.asarray(query), np.asarray(gallery)
        # Features made elsewhere come per query, with repeats; our own are embedded once per region.
        shape = (len(self.gallery),) if features.ndim == 2 else self.candidates_QC.shape
        check_features(query_QD, features, len(self.queries), shape, self.where)
        units = unit_rows(query_QD, self.where, "query")
        for rows in row_blocks(len(units), self.candidates_QC.shape[1] * units.shape[1], SCORE_BLOCK_BYTES):
            candidates = self._candidate_features(features, rows)
            yield rows, NumpyScoreBlock(pairwise_cosines(units[rows], candidates, self.where, features))

    def rank_arrays(self, block: ScoreBlock, rows: slice) -> RankArrays:
        """The target's rank among the candidates of its query."""
        # Column 0 is the target. Two queries list it once more among their candidates, which ties and loses.
        return {"targets": 1 + block.count_better(np.zeros((len(block), 1), dtype=np.int64))}

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        return recalls("R", ranks["targets"][:, 0], GENECIS_CUTOFFS)

    def top(self, block: ScoreBlock, rows: slice, k: int) -> list[Ints]:
        """The best ``k`` candidates of each query, as columns of its own candidate list."""
        return list(block.best(k))

    def without_images(self, absent: Collection[str]) -> Genecis:
        """A query needs its reference and all of its candidates."""
        # A shorter list would be an easier query, so one absent candidate takes the query out.
        needed = [{query.reference, *row} for query, row in zip(self.queries, self.candidates, strict=True)]
        gone = set(absent) & set().union(*needed)
        kept = [row for row, ids in enumerate(needed) if gone.isdisjoint(ids)]
        if not gone:
            return self
        if not kept:
            raise RequestError(f"{self.where}: no query is left without {len(gone)} images")
        queries, candidates = [self.queries[row] for row in kept], [self.candidates[row] for row in kept]
        other = Genecis(queries, candidates, self.part)
        other.protocol = protocol_without_images(self.protocol, len(gone))
        return other

    def candidate_ids(self, row: int) -> Sequence[str]:
        """The query's own candidates, the target first."""
        return self.candidates[row]

    def target_columns(self, row: int) -> list[int]:
        """The target is the first candidate by construction, so that it wins exact ties, as in the public code."""
        return [0]

    def _candidate_features(self, features: NDArray[Any], rows: slice) -> NDArray[Any]:
        return features[self.candidates_QC[rows]] if features.ndim == 2 else features[rows]

    def _score_shape(self) -> tuple[int, int]:
        queries, width = self.candidates_QC.shape
        return queries, width


def load_genecis(root: Path | str, task: str | None) -> Genecis:
    """One task of GeneCIS below ``root`` (the official clone). RequestError names the file and entry at fault."""
    if task not in GENECIS.parts:
        raise RequestError(f"genecis: task {task!r} is not one of {', '.join(GENECIS.parts)}")
    base = find_root(root, ("genecis", "GeneCIS"), f"{task}.json", HOW_TO_GET_GENECIS)
    path = base / f"{task}.json"
    queries: list[Query] = []
    candidates: list[list[str]] = []
    for index, entry in enumerate(read_entries(path, HOW_TO_GET_GENECIS)):
        where = f"{path}: entry {index}"
        target = _region_id(object_field(entry, "target", where), f"{where}: target")
        reference = _region_id(object_field(entry, "reference", where), f"{where}: reference")
        queries.append(Query(str(index), reference, (string_field(entry, "condition", where),), (target,)))
        candidates.append([target, *_gallery(entry, where)])
        found, expected = len(candidates[-1]) - 1, len(candidates[0]) - 1
        if found != expected:
            raise RequestError(f"{where}: {found} images in the gallery, the first entry has {expected}")
    return Genecis(queries, candidates, task)


def _gallery(entry: AnnotationEntry, where: str) -> list[str]:
    gallery = entry.get("gallery")
    if not isinstance(gallery, list) or not gallery or not all(isinstance(item, dict) for item in gallery):
        raise RequestError(f"{where}: 'gallery' is not a list of images")
    return [_region_id(item, f"{where}: gallery[{index}]") for index, item in enumerate(gallery)]


def _region_id(item: AnnotationEntry, where: str) -> str:
    """``image_id[x,y,width,height]`` of an instance in an image of Visual Genome, or the id of a COCO image."""
    if "val_image_id" in item:
        return str(integer_field(item, "val_image_id", where))
    box = item.get("instance_bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        raise RequestError(f"{where}: 'instance_bbox' is {box!r}, expected [x, y, width, height]")
    return f"{string_field(item, 'image_id', where)}[{','.join(map(str, box))}]"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
