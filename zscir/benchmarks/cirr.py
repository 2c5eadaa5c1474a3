"""CIRR (annotations of version rc2): R@K without the query's reference, and R_sub@K among its image set.

Protocols: ``official`` counts the annotated target (SEARLE, LinCIR, CIReVL, CLIP4Cir); ``soft`` takes the highest
graded label among the first K (CIRPLANT), with the reference pushed to the end instead of removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zscir.benchmarks.benchmark import GalleryBenchmark, RankArrays
from zscir.benchmarks.files import (
    AnnotationEntry,
    check_distinct_ids,
    find_root,
    integer_field,
    object_field,
    read_entries,
    read_json,
    string_field,
    strings_field,
)
from zscir.benchmarks.info import BenchmarkInfo
from zscir.benchmarks.metrics import FloatArray, MetricValues, best_labels, metric_values_of, recalls
from zscir.benchmarks.query import Query
from zscir.benchmarks.ranking import Ints, ScoreBlock, padded, ranks_among, ranks_of
from zscir.benchmarks.submission import cirr_files
from zscir.benchmarks.texts import BARE_CAPTION, SEARLE_TEXT, one_caption
from zscir.runtime.errors import RequestError

CIRR_CUTOFFS = (1, 5, 10, 50)
SUBSET_CUTOFFS = (1, 2, 3)
SOFT_CUTOFFS = (1, 2, 5, 10, 50, 100)
HOW_TO_GET_CIRR = "git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR (captions/ and image_splits/)"

CIRR = BenchmarkInfo(
    name="cirr",
    title="CIRR",
    splits=("val", "test1", "train"),
    protocols=("official", "soft"),
    literature_metrics=("R@1", "R@5", "R@10", "R@50", "Rsub@1", "Rsub@2", "Rsub@3"),
    headline_metrics=("R@1", "Rsub@1"),  # in its image set of look-alikes only the text decides: chance is 20 %
    derived_metrics={"mean(R@5,Rsub@1)": ("R@5", "Rsub@1")},  # some papers print it
    published_split="test1",
    annotation_files=lambda split, part: [f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json"],
    text_makers={
        **BARE_CAPTION,
        "searle": one_caption(SEARLE_TEXT),
        "pic2word": one_caption("a photo of * , {0}"),
        "tscir": one_caption("a photo of * , that {0}"),
        "tscir_training": one_caption("a photo of * that {0}"),
    },
    loader=lambda request: load_cirr(request.root, request.split, request.protocol),
    submission=lambda bench, blocks: bench.submission_files(blocks),
)


class Cirr(GalleryBenchmark):
    """R@1, 5, 10, 50 with the reference removed; R_sub@1, 2, 3 among the other members of the image set."""

    info = CIRR

    @cached_property
    def subset_QM(self) -> Ints:
        """The gallery columns of each query's image set without the reference, filled up with -1."""
        return padded([self.gallery_columns(query.subset) for query in self.queries])

    def rank_arrays(self, block: ScoreBlock, rows: slice) -> RankArrays:
        """The target's rank in the gallery and among its image set."""
        subset = ranks_among(block, self.subset_QM[rows], self.targets_QT[rows, 0])
        return {**super().rank_arrays(block, rows), "subset": subset}

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        return recalls("R", ranks["targets"][:, 0], CIRR_CUTOFFS) + recalls("Rsub", ranks["subset"], SUBSET_CUTOFFS)

    def top_of_subset(self, block: ScoreBlock, rows: slice, k: int) -> list[Ints]:
        """The best ``k`` columns of each query's image set, ties in gallery order."""
        best = []
        for columns, values in zip(self.subset_QM[rows], block.values(self.subset_QM[rows]), strict=True):
            order = np.lexsort((columns, -values))
            best.append(columns[order[columns[order] >= 0]][:k])
        return best

    def submission_files(self, blocks: Iterable[tuple[slice, ScoreBlock]]) -> dict[str, dict[str, Any]]:
        """The two files of CIRR's server: the best 50 of the gallery, the best 3 of the image set."""
        recall, subset = [], []
        for rows, block in blocks:
            recall += [self._names(columns) for columns in self.top(block, rows, 50)]
            subset += [self._names(columns) for columns in self.top_of_subset(block, rows, 3)]
        return cirr_files(self.split, self.queries, self.gallery, recall, subset)

    def _names(self, columns: Ints) -> list[str]:
        return [self.gallery[column] for column in columns]


class SoftCirr(Cirr):
    """CIRPLANT's graded recall: the highest label (1, 0.5, 0.2; at least 0) among the first K."""

    @cached_property
    def graded_QS(self) -> Ints:
        """The gallery columns of the graded images, filled up with -1."""
        return padded([self.gallery_columns([name for name, _ in query.soft]) for query in self.queries])

    @cached_property
    def labels_QS(self) -> FloatArray:
        """Their labels."""
        labels = np.zeros(self.graded_QS.shape)
        for index, query in enumerate(self.queries):
            labels[index, : len(query.soft)] = [label for _, label in query.soft]
        return labels

    def rank_arrays(self, block: ScoreBlock, rows: slice) -> RankArrays:
        """The ranks of all graded images, in the gallery and among the image set."""
        references = np.array(self.gallery_columns([query.reference for query in self.queries[rows]]))
        graded, members = self.graded_QS[rows], self.subset_QM[rows]
        inside = np.stack([ranks_among(block, members, column) for column in graded.T], axis=1)
        inside[~(graded[:, :, None] == members[:, None, :]).any(axis=2) | (graded < 0)] = 0
        return {
            "graded": ranks_of(block.with_lowest_score(references), graded, padded([[]] * len(block))),
            "inside": inside,
        }

    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        return [
            metric_values_of(f"{prefix}@{cut}", best_labels(ranks[name], self.labels_QS, cut))
            for prefix, name, cutoffs in (("softR", "graded", SOFT_CUTOFFS), ("softRsub", "inside", SUBSET_CUTOFFS))
            for cut in cutoffs
        ]


def load_cirr(root: Path | str, split: str, protocol: str) -> Cirr:
    """CIRR below ``root`` (the branch cirr_dataset). RequestError names the file and entry at fault."""
    captions = f"captions/cap.rc2.{split}.json"
    base = find_root(root, ("CIRR", "cirr"), captions, HOW_TO_GET_CIRR)
    entries = read_entries(base / captions, HOW_TO_GET_CIRR)
    queries = [_query(entry, f"{base / captions}: entry {index}") for index, entry in enumerate(entries)]
    check_distinct_ids((query.query_id for query in queries), f"{base / captions}: pairid")
    names = base / f"image_splits/split.rc2.{split}.json"
    gallery = check_distinct_ids(read_json(names, dict, HOW_TO_GET_CIRR), str(names))
    if protocol == "soft" and not any(query.soft for query in queries):
        raise RequestError(f"{base / captions}: no target_soft labels, which the protocol soft counts")
    return (SoftCirr if protocol == "soft" else Cirr)(split, protocol, queries, gallery)


def _query(entry: AnnotationEntry, where: str) -> Query:
    reference = string_field(entry, "reference", where)
    members = strings_field(object_field(entry, "img_set", where), "members", f"{where}: img_set")
    targets = (string_field(entry, "target_hard", where),) if "target_hard" in entry else ()
    subset = tuple(member for member in members if member != reference)
    if not set(targets) <= set(subset):
        raise RequestError(f"{where}: target_hard {targets} is not a member of img_set, or is the reference")
    captions = (string_field(entry, "caption", where),)
    pair_id = str(integer_field(entry, "pairid", where))
    return Query(pair_id, reference, captions, targets, (reference,), subset, soft=_soft(entry, where))


def _soft(entry: AnnotationEntry, where: str) -> tuple[tuple[str, float], ...]:
    labels = object_field(entry, "target_soft", where) if "target_soft" in entry else {}
    for name, label in labels.items():
        if not isinstance(label, int | float) or isinstance(label, bool):
            raise RequestError(f"{where}: target_soft[{name!r}] is {label!r}, expected a number")
    return tuple((name, float(label)) for name, label in labels.items())
