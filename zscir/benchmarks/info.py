"""BenchmarkInfo: the one record of a benchmark, from which every table, check and command takes its facts.

A benchmark's own file holds its record; ``zscir.benchmarks.registry`` lists the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from zscir.benchmarks.query import Query

TextMaker = Callable[[Query], list[str]]
RegionBox = tuple[float, float, float, float]
REQUIRED_FIELDS = (
    "name",
    "title",
    "splits",
    "protocols",
    "parts",
    "literature_metrics",
    "headline_metrics",
    "text_makers",
)
TUPLE_FIELDS = ("splits", "protocols", "literature_metrics", "headline_metrics", "parts", "aspects")
OfficialCounts = Mapping[str, Any]
Submission = Callable[[Any, Any], dict[str, dict[str, Any]]]  # (Benchmark, blocks of scores) -> file name -> content


@dataclass(frozen=True)
class LoadRequest:
    """What a loader is given: checked names, and the folder that holds the annotation files or a clone of them."""

    root: Path | str
    split: str
    part: str | None  # a category or a task; None where the caller named none
    protocol: str
    gallery_ids: Iterable[Any] | None = None


def counts_by_split(counts: OfficialCounts, split: str, part: str, protocol: str) -> tuple[int, int] | None:
    """The official (queries, gallery images) of a split; None where the facts do not say."""
    own = counts.get(split)
    return None if own is None else (int(own[0]), int(own[1]))


@dataclass(frozen=True)
class ImageNaming:
    """How the ids of queries and galleries find their pixels in a benchmarks artifact.

    ``index_column`` of ``images.parquet`` knows an image by ``indexed_name`` of its id; ``loose_name`` gives the same
    name for a loose file's path below ``images/``. ``region_box`` is (x, y, width, height) in pixels where an id stands
    for a part of an image.
    """

    index_column: Literal["image_id", "member"] = "image_id"
    indexed_name: Callable[[str], str] = str
    loose_name: Callable[[str], str] = lambda path: PurePosixPath(path).stem
    region_box: Callable[[str], RegionBox | None] = lambda image_id: None  # most ids stand for whole images


@dataclass(frozen=True, kw_only=True)
class BenchmarkInfo:
    """Everything that the rest of the package needs to know of a benchmark beside its ranking and metrics.

    What every benchmark must decide has no default. ValueError names what contradicts itself or is empty.
    """

    name: str  # as specs, score rows and folders name it: "cirr"
    title: str  # as people read it: "CIRR"
    splits: tuple[str, ...]
    protocols: tuple[str, ...]  # ranking protocols, the literature's first
    literature_metrics: tuple[str, ...]  # all that papers print, in their order: the leaderboard's columns
    headline_metrics: tuple[str, ...]  # of these the overview's; the first decides paired tests and breakdowns
    published_split: str  # the split of published numbers
    annotation_files: Callable[[str, str], list[str]]  # (split, part) -> paths, as the authors' repository names them
    text_makers: Mapping[str, TextMaker]  # text protocol -> the query strings of one query
    loader: Callable[[LoadRequest], Any]  # gives a Benchmark (which imports this module) or raises RequestError
    submission: Submission | None  # writes what the benchmark's server takes; None: there is no server
    parts: tuple[str, ...] = ("",)  # categories or tasks, averaged over; ("",) where there are none
    part_argument: Literal["category", "task"] | None = None  # what load_benchmark calls a part
    part_noun: str = ""  # "categories"
    gallery_id: Callable[[Any], str] | None = None  # CIRCO: normalises ids of a gallery that is given from outside
    derived_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> the metrics it is a mean of
    aspects: tuple[str, ...] = ()  # kinds of change that queries are labelled with, in the tables' order
    aspect_metric: str | None = None
    images: ImageNaming = field(default_factory=ImageNaming)
    release_facts: bool = True  # checksums and counts in data_specs/benchmarks/NAME.toml; False: nothing is compared
    expected_counts: Callable[[OfficialCounts, str, str, str], tuple[int, int] | None] = counts_by_split

    def __post_init__(self) -> None:
        empty = [name for name in REQUIRED_FIELDS if not getattr(self, name)]
        strings = [name for name in TUPLE_FIELDS if isinstance(getattr(self, name), str)]
        rules = {
            f"{', '.join(empty)} must not be empty": not empty,
            # ("val") without its comma is a string, in which "v" would be a split too.
            f"{', '.join(strings)} must be tuples": not strings,
            "name must be an identifier, as labels add '/' and a part to it": self.name.isidentifier(),
            f"published_split {self.published_split!r} is not one of splits": self.published_split in self.splits,
            "headline_metrics must be among literature_metrics": {*self.headline_metrics} <= {*self.literature_metrics},
            # The overview in Markdown takes the first of literature_metrics, that of the page the headline metrics.
            "the first of headline_metrics and of literature_metrics must be one": (
                self.headline_metrics[:1] == self.literature_metrics[:1]
            ),
            "parts, part_argument and part_noun belong together": (
                self.has_parts == (self.part_argument is not None) == bool(self.part_noun)
            ),
            "aspects and aspect_metric belong together": bool(self.aspects) == (self.aspect_metric is not None),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"benchmark {self.name!r} is registered wrongly: {'; '.join(broken)}")

    @property
    def has_parts(self) -> bool:
        """Whether it is scored by category or task, and averaged over them."""
        return len(self.parts) > 1

    @property
    def whole_label(self) -> str:
        """What score rows call the whole benchmark: ``cirr``, ``fashioniq/mean``."""
        return f"{self.name}/mean" if self.has_parts else self.name

    def request_problem(self, split: str, protocol: str | None = None, parts: Iterable[str] = ()) -> str:
        """Why a split, ranking protocol or parts cannot be evaluated, and which there are; empty when they can."""
        choices = [("split", split, self.splits), *((self.part_argument or "part", part, self.parts) for part in parts)]
        if protocol is not None:
            choices.append(("protocol", protocol, self.protocols))
        for noun, value, known in choices:
            if value not in known:
                return f"{self.name} has no {noun} '{value}'; it has {', '.join(filter(None, known)) or f'no {noun}s'}"
        return ""

    def texts_problem(self, protocol: str) -> str:
        """Why queries cannot be written in a text protocol, and which there are; empty when they can."""
        if protocol in self.text_makers:
            return ""
        return f"no text protocol '{protocol}' for {self.name}; it has {', '.join(sorted(self.text_makers))}"
