"""Lambdas: the grids that tuned the weight of a sum become charts, one for each validation benchmark and protocol."""

import re
from dataclasses import dataclass, field

from markupsafe import Markup

from zscir.benchmarks.comparability import ComparisonGroup, split_protocol
from zscir.report.artifact_reader import has_columns
from zscir.report.charts import Series, read_curve, weight_panel
from zscir.report.run_data import RunRecord
from zscir.report.scores import evaluation_score_rows, group_title, is_control
from zscir.store.artifacts import Artifact

VALIDATION_CURVE_PATTERN = re.compile(r"validation (\S+) (\S+) \((.*)\)")
NO_CONTROL_GRID = "CONTROLS MISSING: no grid of the untrained sum to hold these against."
ValidationCurve = tuple[str, str, str]  # benchmark, metric, protocol


@dataclass(frozen=True)
class LambdaLine:
    """One line of every chart: who, in which colour (from 1), and the weight that was chosen."""

    method: str
    colour: int
    chosen: float | None


@dataclass(frozen=True)
class Panel:
    """One benchmark's chart and its numbers: a row per weight, a value per line (None: not on its grid)."""

    title: str
    about: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[float, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class LambdaCharts:
    """All charts of a run; ``remark`` says when the control is missing."""

    keys: tuple[LambdaLine, ...]
    panels: tuple[Panel, ...]
    remark: str = ""


@dataclass
class _Grids:
    """The lines of each chart, and who they are."""

    keys: list[LambdaLine] = field(default_factory=list)
    lines: dict[ValidationCurve, list[tuple[LambdaLine, Series]]] = field(default_factory=dict)
    stock: bool = False


def lambda_charts(record: RunRecord) -> list[LambdaCharts]:
    """What the sum of text and lambda x image scores on other queries; empty when nothing was tuned."""
    found = _Grids()
    for step, artifact in record.made_by("evaluate"):
        grids = _grids(artifact)
        if grids:
            rows = evaluation_score_rows(artifact)
            chosen = artifact.facts.get("lambda")
            name = rows[0]["method"] if rows else step.name
            key = LambdaLine(name, len(found.keys) + 1, chosen if isinstance(chosen, float) else None)
            found.keys.append(key)
            found.stock = found.stock or is_control(artifact)
            for place, series in grids.items():
                found.lines.setdefault(place, []).append((key, series))
    if not found.keys:
        return []
    panels = tuple(_panel(place, lines) for place, lines in found.lines.items())
    return [LambdaCharts(tuple(found.keys), panels, "" if found.stock else NO_CONTROL_GRID)]


def _panel(place: ValidationCurve, lines: list[tuple[LambdaLine, Series]]) -> Panel:
    benchmark, metric, protocol = place
    ranking, texts, preprocessing = split_protocol(protocol)
    title = f"{group_title(ComparisonGroup(benchmark, '', ''))} {metric}"
    about = ", ".join(one for one in (ranking, texts and f"texts {texts}", preprocessing) if one)
    drawn = [(series, key.colour, key.chosen) for key, series in lines]
    svg = Markup(weight_panel(drawn, f"{title} by lambda ({about})"))  # noqa: S704 - charts escape names
    values = [dict(zip(series.x, series.y, strict=True)) for _, series in lines]
    weights = sorted({weight for own in values for weight in own})
    rows = tuple((weight, tuple(own.get(weight) for own in values)) for weight in weights)
    return Panel(title, about, svg, tuple(key.method for key, _ in lines), rows)


def _grids(evaluation: Artifact) -> dict[ValidationCurve, Series]:
    """The values of each validation benchmark in order of lambda."""
    if not has_columns(evaluation, "curve.parquet", ("step", "name", "value")):
        return {}
    series = {one.name: one for one in read_curve(evaluation)}
    weights = series.pop("lambda", None)
    if weights is None:
        return {}
    found = {}
    for name, one in series.items():
        parts = VALIDATION_CURVE_PATTERN.fullmatch(name)
        points = sorted(zip(weights.y, one.y, strict=False))
        place = (parts[1], parts[2], parts[3]) if parts else (name, "", "")
        found[place] = Series(name, [x for x, _ in points], [y for _, y in points])
    return found
