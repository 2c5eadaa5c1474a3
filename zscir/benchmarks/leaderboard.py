"""Published results and our scores become one leaderboard: a table per benchmark, split and protocol, never mixed.

Published rows come from ``data_specs/published/*.toml`` with their source; a value that its source only quotes is
second-hand and marked. Renders as Markdown, LaTeX and HTML (sortable, self-contained, everything escaped).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from zscir.benchmarks.sheets import Sheet, markdown_row, plain, ranked_by, sheet_of, split_protocol
from zscir.errors import RequestError

SPLITS = {"fashioniq": "val", "cirr": "test1", "circo": "test", "genecis": "val"}
RANKINGS = {"fashioniq": "original", "cirr": "official", "circo": "official", "genecis": "official"}
MEANS = ("fashioniq", "genecis")  # published as the mean over their parts
WORDS = {"name", "backbone", "source", "second_hand", "note"}
MARK = "†"


@dataclass(frozen=True)
class Entry:
    """One method's numbers in one sheet; ``ours`` were measured by this project."""

    sheet: Sheet
    method: str
    backbone: str
    values: Mapping[str, float]
    source: str = ""
    note: str = ""
    second_hand: bool = False
    ours: bool = False


def published(folder: Path) -> list[Entry]:
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


def measured(scores: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Entries of rows of the SCORES table: one for each sheet, method and backbone."""
    found: dict[tuple[Sheet, str, str, str], dict[str, float]] = {}
    for row in scores:
        _, texts, fit = split_protocol(row["protocol"])
        key = (sheet_of(row), row["method"], row["backbone"], _asked(texts, fit))
        found.setdefault(key, {})[row["metric"]] = row["value"]
    return [Entry(sheet, method, backbone, values, "this run", how, ours=True)
            for (sheet, method, backbone, how), values in found.items()]  # fmt: skip


def sheets(entries: Sequence[Entry]) -> dict[Sheet, list[str]]:
    """Sheet -> its metrics, in the order of first appearance; sheets by name."""
    metrics: dict[Sheet, dict[str, None]] = {}
    for entry in entries:
        metrics.setdefault(entry.sheet, {}).update(dict.fromkeys(entry.values))
    return {sheet: list(metrics[sheet]) for sheet in sorted(metrics, key=lambda one: one.title)}


def ranked(entries: Sequence[Entry], sheet: Sheet, metric: str) -> list[Entry]:
    """The entries of a sheet, best in ``metric`` first; those without it last, in their order."""
    own = [entry for entry in entries if entry.sheet == sheet]
    return sorted(own, key=lambda entry: -entry.values.get(metric, float("-inf")))


def markdown(entries: Sequence[Entry]) -> str:
    """A section per sheet, sorted by its first metric; our rows bold, second-hand ones marked."""
    parts = ["# Leaderboard", _legend()]
    for sheet, metrics in sheets(entries).items():
        lines = [
            markdown_row(["method", "backbone", *metrics, "source", "note"]),
            markdown_row(["---"] * (len(metrics) + 4)),
        ]
        for entry in ranked(entries, sheet, metrics[0]):
            name = f"**{plain(entry.method)}**" if entry.ours else plain(_marked(entry))
            lines.append(
                markdown_row([name, *map(plain, (entry.backbone, *_numbers(entry, metrics), entry.source, entry.note))])
            )
        parts.append(f"## {plain(sheet.title)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(entries: Sequence[Entry]) -> str:
    """A booktabs table per sheet."""
    parts = []
    for sheet, metrics in sheets(entries).items():
        head = " & ".join(_tex(word) for word in ("method", "backbone", *metrics))
        lines = [" & ".join([_tex_name(entry), *map(_tex, (entry.backbone, *_numbers(entry, metrics)))]) + r" \\"
                 for entry in ranked(entries, sheet, metrics[0])]  # fmt: skip
        body = "\n".join([r"\toprule", head + r" \\", r"\midrule", *lines, r"\bottomrule"])
        columns = "ll" + "r" * len(metrics)
        parts.append(
            f"\\begin{{table}}\n\\caption{{{_tex(sheet.title)}}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
            "\\end{tabular}\n\\end{table}"
        )
    return "\n\n".join(parts) + "\n"


def html(entries: Sequence[Entry]) -> str:
    """A section per sheet with tables that a click on a heading sorts; a fragment, no outside resource."""
    parts = [f"<p>{escape(_legend())}</p>"]
    for sheet, metrics in sheets(entries).items():
        heads = "".join(f"<th>{escape(word)}</th>" for word in ("method", "backbone", *metrics, "source", "note"))
        rows = "\n".join(_html_row(entry, metrics) for entry in ranked(entries, sheet, metrics[0]))
        table = f'<table class="leaderboard"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
        parts.append(f"<h3>{escape(sheet.title)}</h3>\n{table}")
    return "\n".join([*parts, f"<script>{SORTING}</script>"]) + "\n"


SORTING = """
document.querySelectorAll('table.leaderboard th').forEach(function (head) {
  head.addEventListener('click', function () {
    var body = head.closest('table').tBodies[0], column = head.cellIndex, up = head.dataset.up !== '1';
    head.dataset.up = up ? '1' : '0';
    Array.from(body.rows).sort(function (a, b) {
      var x = a.cells[column].textContent, y = b.cells[column].textContent, m = parseFloat(x), n = parseFloat(y);
      if (isNaN(m) !== isNaN(n)) { return isNaN(m) ? 1 : -1; }
      return (isNaN(m) ? x.localeCompare(y) : n - m) * (up ? 1 : -1);
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""


def _entries(row: Any, backbone: str, where: str) -> list[Entry]:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("source"), str):
        raise RequestError(f"{where}: a method needs a 'name' and a 'source' (who printed these numbers)")
    named = str(row.get("backbone", backbone))
    if not named:
        raise RequestError(f"{where}: {row['name']} has no 'backbone', neither here nor at the top of the file")
    made = []
    for key, values in row.items():
        if key in WORDS or key.endswith(("_protocol", "_texts")):
            continue
        sheet = _sheet(key, row, where)
        if not isinstance(values, dict) or not values or not all(_is_percent(value) for value in values.values()):
            raise RequestError(f"{where}: {key} of {row['name']} is {values!r}, expected metric -> percent")
        second = bool(row.get("second_hand", False))
        made.append(Entry(sheet, row["name"], named, values, row["source"], str(row.get("note", "")), second))
    return made


def _sheet(key: str, row: Mapping[str, Any], where: str) -> Sheet:
    benchmark = key.split("/")[0]
    if benchmark not in SPLITS:
        raise RequestError(f"{where}: unknown key {key!r}; benchmarks are {', '.join(SPLITS)}")
    ranking = str(row.get(f"{benchmark}_protocol", RANKINGS[benchmark]))
    texts = row.get(f"{benchmark}_texts")
    name = f"{benchmark}/mean" if key in MEANS else key
    return Sheet(name, SPLITS[benchmark], ranked_by(ranking, texts))


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _asked(texts: str, fit: str) -> str:
    return ", ".join(part for part in (texts and f"texts {texts}", fit and f"preprocessing {fit}") if part)


def _numbers(entry: Entry, metrics: Sequence[str]) -> list[str]:
    """Ours with two decimals, published ones with as many as were printed."""
    shown = [entry.values.get(metric) for metric in metrics]
    return ["-" if value is None else f"{value:.2f}" if entry.ours else str(value) for value in shown]


def _marked(entry: Entry) -> str:
    return f"{entry.method} {MARK}" if entry.second_hand else entry.method


def _legend() -> str:
    return f"{MARK}: second-hand, the source quotes another paper. Tables of different protocols may not be compared."


def _tex(text: str) -> str:
    plain = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MARK: r"$\dagger$"}
    return "".join(plain.get(one, f"\\{one}" if one in "&%$#_{}" else one) for one in " ".join(text.split()))


def _tex_name(entry: Entry) -> str:
    return rf"\textbf{{{_tex(entry.method)}}}" if entry.ours else _tex(_marked(entry))


def _html_row(entry: Entry, metrics: Sequence[str]) -> str:
    cells = (_marked(entry), entry.backbone, *_numbers(entry, metrics), entry.source, entry.note)
    mark = ' class="ours"' if entry.ours else ""
    return f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
