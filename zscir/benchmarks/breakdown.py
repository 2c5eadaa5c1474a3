"""Query rows and their values become breakdowns: by length of the text, and by where the reference itself came out.

A method that mostly repeats the reference image retrieves the reference first: the classic failure, shown as a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
WORDS = ((5, "1-5 words"), (10, "6-10 words"), (20, "11-20 words"))
REFERENCE_RANKS = ((1, "reference first"), (10, "reference 2nd-10th"))
HEADLINE = {"fashioniq": "R@10", "cirr": "R@1", "circo": "mAP@5", "genecis": "R@1"}


def breakdown(queries: Sequence[Row], per_query: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows (benchmark, split, metric, by, group, value in percent, n) of each benchmark's headline metric."""
    values = {
        (row["benchmark"], row["split"], row["query_id"]): row["value"]
        for row in per_query
        if row["metric"] == HEADLINE[row["benchmark"].split("/")[0]]
    }
    own: dict[tuple[str, str], list[Row]] = {}
    for row in queries:
        own.setdefault((row["benchmark"], row["split"]), []).append(row)
    for (benchmark, split), rows in own.items():
        known = [row for row in rows if (benchmark, split, row["query_id"]) in values]
        for by, group_of in GROUPS.items():
            groups: dict[str, list[float]] = {}
            for row in known:
                group = group_of(row)
                if group:
                    groups.setdefault(group, []).append(values[benchmark, split, row["query_id"]])
            for group in sorted(groups, key=_order):
                found = groups[group]
                yield {
                    "benchmark": benchmark, "split": split, "metric": HEADLINE[benchmark.split("/")[0]], "by": by,
                    "group": group, "value": 100.0 * sum(found) / len(found), "n": len(found),
                }  # fmt: skip


def _binned(value: int | None, bins: Sequence[tuple[int, str]], beyond: str) -> str:
    if value is None:
        return ""
    return next((name for most, name in bins if value <= most), beyond)


GROUPS: dict[str, Callable[[Row], str]] = {
    "words": lambda row: _binned(row["words"], WORDS, "21 words or more"),
    "reference": lambda row: _binned(row["reference_rank"], REFERENCE_RANKS, "reference later"),
}
_ORDER = [name for _, name in (*WORDS, (0, "21 words or more"), *REFERENCE_RANKS, (0, "reference later"))]


def _order(group: str) -> int:
    return _ORDER.index(group)
