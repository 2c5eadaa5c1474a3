"""Leaderboard: published results and our scores in a table per benchmark, split and protocol, as Markdown or LaTeX.

Published rows come from ``data_specs/published/*.toml`` with their source; a value that its source only quotes is
second-hand and marked. ``zscir.report.leaderboard_page`` renders the same entries as HTML. Published numbers seldom say
how texts and images were prepared, so tables differ by ranking protocol and by easier texts only; our rows name theirs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zscir.benchmarks.comparability import (
    ComparisonGroup,
    comparison_group_of,
    control_from_label,
    easier_text_protocol,
    escape_markdown,
    literature_metrics,
    markdown_row,
    split_protocol,
)
from zscir.benchmarks.registry import BENCHMARKS, info_of_label
from zscir.runtime.errors import RequestError

PUBLISHED_FIELDS = {"name", "backbone", "source", "second_hand", "note"}
SECOND_HAND_MARK = "†"
LEGEND = (
    f"{SECOND_HAND_MARK}: second-hand, the source quotes another paper. Ours are bold, with hits of n and a 95 % "
    "interval. Numbers of different tables may not be compared."
)


@dataclass(frozen=True)
class HitCounts:
    """The counts of one percentage of ours: queries, hits (None for a graded metric), its 95 % interval."""

    n: int
    hits: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LeaderboardEntry:
    """One method's numbers in one comparison group; ``ours`` were measured by this project.

    ``counts`` are by metric; ``control`` is image, text or sum of a backbone that was not trained for the task.
    """

    group: ComparisonGroup
    method: str
    backbone: str
    values: Mapping[str, float]
    source: str = ""
    note: str = ""
    second_hand: bool = False
    ours: bool = False
    control: str | None = None
    counts: Mapping[str, HitCounts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method, marked where its numbers are second-hand."""
        return f"{self.method} {SECOND_HAND_MARK}" if self.second_hand else self.method

    def format_value(self, metric: str) -> str:
        """Ours with two decimals, published ones with as many as were printed, a dash for none."""
        value = self.values.get(metric)  # a published 51.7 must not become 51.70, which claims more
        return "-" if value is None else f"{value:.2f}" if self.ours else str(value)

    def counts_and_interval(self, metric: str) -> tuple[str, str]:
        """Hits of n (or n alone), and the interval: ``1,234/4,181``, ``26.7 to 35.2``; empty where not known."""
        count = self.counts.get(metric)
        if count is None:
            return "", ""
        known = count.low is not None and count.high is not None
        counts = f"n {count.n:,}" if count.hits is None else f"{count.hits:,}/{count.n:,}"
        return counts, f"{count.low:.1f} to {count.high:.1f}" if known else ""


def published_entries(folder: Path) -> list[LeaderboardEntry]:
    """Every entry of the TOML files in ``folder``. RequestError names file and method of what does not fit."""
    entries = []
    for path in sorted(folder.glob("*.toml")):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RequestError(f"{path}: cannot be read: {error}") from None
        for number, row in enumerate(table.get("methods", [])):
            entries += _entries(row, str(table.get("backbone", "")), f"{path}: methods[{number}]")
    return entries


def measured_entries(scores: Iterable[Mapping[str, Any]]) -> list[LeaderboardEntry]:
    """Entries of rows of the SCORES table (hits, low, high, control where known): one for each group and evaluation.

    Evaluations of one method are separate entries by their ``artifact_key``, so that every seed is seen, not the best.
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in scores:
        key = (
            replace(comparison_group_of(row), preprocessing=""),
            row.get("artifact_key"),
            row["method"],
            row["backbone"],
        )
        found.setdefault((*key, *split_protocol(row["protocol"])[1:]), []).append(row)
    return [_measured_entry(group, rows) for (group, *_), rows in found.items()]


def _measured_entry(group: ComparisonGroup, rows: Sequence[Mapping[str, Any]]) -> LeaderboardEntry:
    first = rows[0]
    _, texts, preprocessing = split_protocol(first["protocol"])
    note = ", ".join(
        part for part in (texts and f"texts {texts}", preprocessing and f"preprocessing {preprocessing}") if part
    )
    key = first.get("artifact_key")
    has_control = first.get("low") is not None  # rows of SCORES alone do not say which control they are
    control = first.get("control") if has_control else control_from_label(first["method"])
    counts = {row["metric"]: HitCounts(row["n"], row.get("hits"), row.get("low"), row.get("high")) for row in rows}
    return LeaderboardEntry(
        group,
        first["method"],
        first["backbone"],
        {row["metric"]: row["value"] for row in rows},
        f"evaluation {key[:12]}" if key else "this run",
        note,
        ours=True,
        control=control,
        counts=counts,
    )


def metrics_by_group(entries: Sequence[LeaderboardEntry]) -> dict[ComparisonGroup, list[str]]:
    """Group -> its metrics: what is published and what the literature prints; ours are not all shown.

    Groups of whole benchmarks stand first, in the literature's order. A leaderboard prints every metric that papers
    print, so that their rows are whole; an overview prints the headline metrics only, one or two for each benchmark.
    """
    metrics: dict[ComparisonGroup, dict[str, None]] = {}  # dicts without values: ordered sets
    for entry in entries:
        known = literature_metrics(entry.group.benchmark) if entry.ours else ()
        # Ours measure more than papers print (R@1 and R@5 of FashionIQ); published rows are shown whole.
        kept = [metric for metric in entry.values if metric in known] or list(entry.values)
        metrics.setdefault(entry.group, {}).update(dict.fromkeys(kept))
    return {group: _ordered(group, metrics[group]) for group in sorted(metrics, key=lambda group: group.order)}


def _ordered(group: ComparisonGroup, found: Iterable[str]) -> list[str]:
    named = list(found)
    first = [metric for metric in literature_metrics(group.benchmark) if metric in named]
    return first + [metric for metric in named if metric not in first]


def ranked(entries: Sequence[LeaderboardEntry], group: ComparisonGroup, metric: str) -> list[LeaderboardEntry]:
    """The entries of a group, best in ``metric`` first; those without it last, in their order."""
    own = [entry for entry in entries if entry.group == group]
    return sorted(own, key=lambda entry: -entry.values.get(metric, float("-inf")))


def leaderboard_markdown(entries: Sequence[LeaderboardEntry]) -> str:
    """A section per group, sorted by its first metric; our rows bold, second-hand ones marked."""
    parts = ["# Leaderboard", LEGEND]
    for group, metrics in metrics_by_group(entries).items():
        lines = [
            markdown_row(["method", "backbone", *metrics, "source", "note"]),
            markdown_row(["---"] * (len(metrics) + 4)),
        ]
        for entry in ranked(entries, group, metrics[0]):
            name = f"**{escape_markdown(entry.name)}**" if entry.ours else escape_markdown(entry.name)
            numbers = [_full(entry, metric) for metric in metrics]
            lines.append(
                markdown_row([name, *map(escape_markdown, (entry.backbone, *numbers, entry.source, entry.note))])
            )
        parts.append(f"## {escape_markdown(group.title)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def leaderboard_latex(entries: Sequence[LeaderboardEntry]) -> str:
    """A booktabs table per group."""
    parts = []
    for group, metrics in metrics_by_group(entries).items():
        head = " & ".join(_tex(word) for word in ("method", "backbone", *metrics))
        lines = []
        for entry in ranked(entries, group, metrics[0]):
            name = rf"\textbf{{{_tex(entry.name)}}}" if entry.ours else _tex(entry.name)
            cells = [_tex(entry.backbone), *(_tex(_full(entry, metric)) for metric in metrics)]
            lines.append(" & ".join([name, *cells]) + r" \\")
        body = "\n".join([r"\toprule", head + r" \\", r"\midrule", *lines, r"\bottomrule"])
        columns = "ll" + "r" * len(metrics)
        parts.append(
            f"\\begin{{table}}\n\\caption{{{_tex(group.title)}}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
            "\\end{tabular}\n\\end{table}"
        )
    return "\n\n".join(parts) + "\n"


def _full(entry: LeaderboardEntry, metric: str) -> str:
    """The number with its counts and interval: ``30.75 (123/400) [26.7 to 35.2]``."""
    counts, interval = entry.counts_and_interval(metric)
    return entry.format_value(metric) + (f" ({counts})" if counts else "") + (f" [{interval}]" if interval else "")


def _entries(row: Any, backbone: str, where: str) -> list[LeaderboardEntry]:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("source"), str):
        raise RequestError(f"{where}: a method needs a 'name' and a 'source' (who printed these numbers)")
    named = str(row.get("backbone", backbone))
    if not named:
        raise RequestError(f"{where}: {row['name']} has no 'backbone', neither here nor at the top of the file")
    made = []
    for key, values in row.items():
        # Every other key is a benchmark's label: "cirr", "fashioniq/dress".
        if key in PUBLISHED_FIELDS or key.endswith(("_protocol", "_texts")):
            continue
        group = _comparison_group(key, row, where)
        if not isinstance(values, dict) or not values or not all(_is_percent(value) for value in values.values()):
            raise RequestError(f"{where}: {key} of {row['name']} is {values!r}, expected metric -> percent")
        second = bool(row.get("second_hand", False))
        made.append(
            LeaderboardEntry(group, row["name"], named, values, row["source"], str(row.get("note", "")), second)
        )
    return made


def _comparison_group(key: str, row: Mapping[str, Any], where: str) -> ComparisonGroup:
    info = info_of_label(key)
    if info is None:
        raise RequestError(f"{where}: unknown key {key!r}; benchmarks are {', '.join(BENCHMARKS)}")
    ranking = str(row.get(f"{info.name}_protocol", info.protocols[0]))
    label = info.whole_label if key == info.name else key  # a benchmark with parts is published as the mean over them
    return ComparisonGroup(label, info.published_split, ranking, easier_text_protocol(row.get(f"{info.name}_texts")))


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _tex(text: str) -> str:
    escapes = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        SECOND_HAND_MARK: r"$\dagger$",
    }
    return "".join(escapes.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in " ".join(text.split()))
