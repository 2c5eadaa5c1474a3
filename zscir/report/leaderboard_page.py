"""Leaderboard tables as HTML that a reader sorts by any column, without any script.

Each heading is a radio button; the style sheet gives each row its place by the button that is chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.leaderboard import (
    LEGEND,
    SECOND_HAND_MARK,
    LeaderboardEntry,
    measured_entries,
    metrics_by_group,
    published_entries,
    ranked,
)
from zscir.evaluation.score_tables import control_kind, lacking_controls
from zscir.report.run_data import RunRecord
from zscir.report.scores import evaluation_score_rows, group_title
from zscir.report.templates import environment, style_sheet
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs
from zscir.store.artifacts import Artifact, atomic_path

TOY_STAGE = "tabletop_benchmarks"
TOY_TITLE = "This run, on the tabletop world"
TOY_ABOUT = (
    "Formats and metrics are those of the real benchmarks, the pictures are not: none of these numbers may stand "
    "beside a published one."
)
TITLE, WITH_OURS = "Published results", "Published results, and this run's"


@dataclass(frozen=True)
class Heading:
    """Something by which rows can be sorted; ``order`` says in words which end comes first."""

    number: int
    name: str
    order: str
    checked: bool = False


@dataclass(frozen=True)
class LeaderboardColumn:
    """A column and what its head offers to sort by."""

    headings: tuple[Heading, ...]
    numbers: bool = False


@dataclass(frozen=True)
class LeaderboardCell:
    """A number as it is shown, with its counts and interval where it is ours."""

    text: str
    of: str = ""
    interval: str = ""


@dataclass(frozen=True)
class LeaderboardRow:
    """One entry; ``places`` holds its place for each heading's number, from 0, all different within a table."""

    entry: LeaderboardEntry
    cells: tuple[LeaderboardCell, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class LeaderboardTable:
    """One benchmark, split and protocol, its rows in the order of the first metric; two columns are no metrics."""

    title: str
    about: str
    columns: tuple[LeaderboardColumn, ...]
    rows: tuple[LeaderboardRow, ...]
    remarks: tuple[str, ...]

    @property
    def mixed(self) -> bool:
        """Whether ours stand beside published ones, so that they must be told apart at a glance."""
        return len({row.entry.ours for row in self.rows}) > 1


@dataclass(frozen=True)
class LeaderboardGroup:
    """Tables under a title; folded away where nothing in them is ours."""

    title: str
    about: str
    tables: tuple[LeaderboardTable, ...]
    folded: bool = False


def run_leaderboards(record: RunRecord) -> list[LeaderboardGroup]:
    """What a run measured: toy scores among themselves, real ones beside published ones. Empty without scores."""
    toys: list[LeaderboardEntry] = []
    real: list[LeaderboardEntry] = []
    for step, artifact in record.steps_with_artifact("evaluate"):
        rows = [
            row | {"artifact_key": artifact.key, "control": control_kind(row)}
            for row in evaluation_score_rows(artifact)
        ]
        found = [replace(entry, source=f"this run: {step.name}") for entry in measured_entries(rows)]
        (toys if _is_toy(artifact) else real).extend(found)
    if not toys and not real:
        return []
    whole = [entry for entry in toys if entry.group.benchmark.partition("/")[2] in ("", "mean")]
    # Toy scores carry the names of real benchmarks, so they get a group of their own.
    groups = [LeaderboardGroup(TOY_TITLE, TOY_ABOUT, tuple(leaderboard_tables(whole)))] if whole else []
    # Of one list, so that ours are sorted among published numbers of the same split and protocol.
    everything = leaderboard_tables([*published_entries(data_specs() / "published"), *real])
    return [*groups, LeaderboardGroup(WITH_OURS if real else TITLE, LEGEND, tuple(everything), folded=not real)]


def _is_toy(evaluation: Artifact) -> bool:
    """Whether the benchmarks are the tabletop world's, whose scores carry the real benchmarks' names."""
    inputs = evaluation.manifest.inputs.values() if evaluation.manifest is not None else ()
    return any(entry.stage == TOY_STAGE for entry in inputs)


def leaderboard_tables(entries: Sequence[LeaderboardEntry]) -> list[LeaderboardTable]:
    """A table for each comparison group, best in its first metric first."""
    return [_leaderboard_table(entries, group, metrics) for group, metrics in metrics_by_group(entries).items()]


def _leaderboard_table(
    entries: Sequence[LeaderboardEntry], group: ComparisonGroup, metrics: list[str]
) -> LeaderboardTable:
    shown = ranked(entries, group, metrics[0])
    keys: list[Callable[[LeaderboardEntry], Any]] = [
        lambda entry: entry.method.casefold(),  # as a reader sorts names: "beta" before "Gamma"
        lambda entry: entry.backbone.casefold(),
        *(partial(_descending, metric) for metric in metrics),
        lambda entry: entry.source.casefold(),
    ]
    # A place per heading and row: the style sheet sets each row's CSS order to the place of the chosen heading.
    orders = [sorted(shown, key=key) for key in keys]
    places = [{id(entry): place for place, entry in enumerate(order)} for order in orders]
    rows = tuple(
        LeaderboardRow(
            entry, tuple(_cell(entry, metric) for metric in metrics), tuple(place[id(entry)] for place in places)
        )
        for entry in shown
    )
    about = f"{group.split}, {group.protocol}"
    return LeaderboardTable(group_title(group), about, _columns(metrics), rows, tuple(_remarks(shown)))


def _columns(metrics: Sequence[str]) -> tuple[LeaderboardColumn, ...]:
    """Method and backbone stand in one column, to leave room for the numbers."""
    numbers = [
        LeaderboardColumn((Heading(place, metric, "highest first", checked=place == 2),), numbers=True)
        for place, metric in enumerate(metrics, start=2)
    ]
    words = (Heading(0, "method", "A to Z"), Heading(1, "backbone", "A to Z"))
    return (LeaderboardColumn(words), *numbers, LeaderboardColumn((Heading(len(metrics) + 2, "source", "A to Z"),)))


def _descending(metric: str, entry: LeaderboardEntry) -> float:
    return -entry.values.get(metric, float("-inf"))  # without a number: last


def _cell(entry: LeaderboardEntry, metric: str) -> LeaderboardCell:
    mark = SECOND_HAND_MARK if entry.second_hand and metric in entry.values else ""
    return LeaderboardCell(entry.format_value(metric) + mark, *entry.counts_and_interval(metric))


def _remarks(entries: Sequence[LeaderboardEntry]) -> list[str]:
    """A sentence for each backbone of ours whose controls are not in this table."""
    ours = [(entry.backbone, entry.control) for entry in entries if entry.ours]
    return [
        f"CONTROLS MISSING: no {', no '.join(lacking)} of {backbone} among ours."
        for backbone, lacking in lacking_controls(ours)
    ]


def sorting_style(groups: Sequence[LeaderboardGroup]) -> str:
    """The rules that put rows in the order of the chosen heading, for as many headings as there are."""
    headings = max((len(table.columns) + 1 for group in groups for table in group.tables), default=0)
    return "\n".join(
        f".board:has(.by-{number}:checked) .entry {{ order: var(--o{number}); }}" for number in range(headings)
    )


def write_leaderboard_page(entries: Sequence[LeaderboardEntry], path: Path) -> Path:
    """Write a page of nothing but the leaderboard; RequestError when that is not possible there."""
    if path.is_dir():
        raise RequestError(f"{path}: this is a folder; give the name of the HTML file")
    groups = [LeaderboardGroup("Leaderboard", LEGEND, tuple(leaderboard_tables(entries)))]
    style = style_sheet(sorting_style(groups))
    html = environment().get_template("board_page.html.j2").render(style=style, leaderboard_groups=groups)
    try:
        with atomic_path(path) as part:
            part.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot write the leaderboard there ({error.strerror})") from None
    return path
