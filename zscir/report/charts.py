"""Draw small SVG charts with Matplotlib, in the colours of the page's style sheet."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from io import StringIO
from typing import Any

from zscir.report.artifact_reader import READ_BATCH_ROWS, open_parquet
from zscir.store.artifacts import Artifact

MAX_POINTS = 240  # a training chart is 238 points wide
MAX_NAMES = 24
# Stand-ins for the style's colours; each becomes a CSS variable, so that charts follow light and dark.
INK_COLOUR, LINE_COLOUR = "#010203", "#040506"
SERIES_COLOURS = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
MARKERS = ("o", "s", "^", "D", "v", "P")
_VARIABLES = {INK_COLOUR: "var(--soft)", LINE_COLOUR: "var(--line)"} | {
    colour: f"var(--c{n})" for n, colour in enumerate(SERIES_COLOURS, start=1)
}
_STYLE: Any = {
    "svg.hashsalt": "zscir", "svg.fonttype": "none", "text.parse_math": False, "font.size": 8, "axes.titlesize": 9,
    "text.color": INK_COLOUR, "axes.edgecolor": LINE_COLOUR, "axes.labelcolor": INK_COLOUR,
    "axes.titlecolor": INK_COLOUR,
    "xtick.color": INK_COLOUR, "ytick.color": INK_COLOUR, "grid.color": LINE_COLOUR, "axes.grid": True,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlelocation": "left", "lines.linewidth": 1.4, "grid.linewidth": 0.6, "axes.formatter.useoffset": False,
    "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Points of one line, in order of x."""

    name: str
    x: list[float]
    y: list[float]


def read_curve(artifact: Artifact) -> list[Series]:
    """The curves of a training, each thinned to at most 240 points: averages over equal spans of steps."""
    with open_parquet(artifact, "curve.parquet") as table:
        last = max(_steps_at_ends(table), default=0)
        span = -(-(last + 1) // MAX_POINTS)
        sums: dict[str, dict[int, list[float]]] = {}
        for batch in table.iter_batches(batch_size=READ_BATCH_ROWS, columns=["step", "name", "value"]):
            for step, name, value in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if name in sums or len(sums) < MAX_NAMES:
                    cell = sums.setdefault(name, {}).setdefault(step // span, [0.0, 0.0, 0.0])
                    cell[0], cell[1], cell[2] = cell[0] + step, cell[1] + value, cell[2] + 1
    return [_averaged(name, cells) for name, cells in sums.items()]


def _steps_at_ends(table: Any) -> list[int]:
    """The largest step of each row group, from the file's statistics where it has them."""
    found = []
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        if group.num_rows:
            statistics = group.column(table.schema_arrow.names.index("step")).statistics
            found.append(statistics.max if statistics is not None and statistics.has_min_max else group.num_rows)
    return found


def _averaged(name: str, cells: dict[int, list[float]]) -> Series:
    ordered = [cells[number] for number in sorted(cells)]
    return Series(name, [steps / count for steps, _, count in ordered], [total / count for _, total, count in ordered])


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of the values at most ``window // 2`` places away; at the ends of fewer."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, place - half), min(len(values), place + half + 1)) for place in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def curve_panel(series: Series, colour: int, title: str) -> str:
    """One training curve as SVG: the values pale, their running mean strong."""
    shade = SERIES_COLOURS[colour % len(SERIES_COLOURS)]
    window = len(series.y) // 12

    def draw(axes: Any) -> None:
        if window >= 3:
            axes.plot(series.x, series.y, color=shade, alpha=0.3, linewidth=0.8)
        axes.plot(series.x, smoothed(series.y, window) if window >= 3 else series.y, color=shade)
        axes.locator_params(axis="x", integer=True)
        axes.set_title(series.name)
        axes.set_xlabel("step")
        axes.margins(x=0.01)

    return _picture(3.3, 1.9, title, draw)


def weight_panel(lines: Sequence[tuple[Series, int, float | None]], title: str) -> str:
    """Scores by the weight of the image; each line with its colour (from 1) and the weight that was chosen for it."""

    def draw(axes: Any) -> None:
        for line, colour, chosen in lines:
            shade, marker = SERIES_COLOURS[(colour - 1) % len(SERIES_COLOURS)], MARKERS[(colour - 1) % len(MARKERS)]
            axes.plot(line.x, line.y, color=shade, marker=marker, markersize=4)
            at = [y for x, y in zip(line.x, line.y, strict=True) if x == chosen]
            axes.plot([chosen] * len(at), at, color=shade, marker="o", markersize=11, fillstyle="none", linestyle="")
        axes.set_xlabel("lambda, the weight of the image")
        axes.margins(y=0.12)

    return _picture(4.6, 2.5, title, draw)


def _picture(width: float, height: float, title: str, draw: Callable[[Any], None]) -> str:
    """An SVG element of axes of that size (inches), with what ``draw`` puts on them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    stream = StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name may use letters that Matplotlib's font lacks; the browser draws the text with its own fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.locator_params(nbins=6)
        axes.xaxis.set_major_formatter(_plain)
        axes.yaxis.set_major_formatter(_plain)
        draw(axes)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inlined(stream.getvalue(), title)


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


def inlined(svg: str, title: str) -> str:
    """Matplotlib's SVG file as an element of a page: named, without prologue and style, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style[^>]*>.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    prefix = "c" + sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    end = svg.index(">")
    box = re.search(r'viewBox="[^"]*"', svg[:end])
    return f'<svg class="chart" role="img" aria-label="{escape(title)}" {box[0] if box else ""}{svg[end:]}'
