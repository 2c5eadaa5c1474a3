"""Charts of tuning lambda, the image's weight in a sum: one for each validation benchmark and protocol."""

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
    """One line of every chart: its method, colour (from 1), and the weight that was chosen."""

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

    lines: tuple[LambdaLine, ...]
    panels: tuple[Panel, ...]
    remark: str = ""


@dataclass
class _Grids:
    """The lines of all charts, the series of each chart, and whether an untrained control is among them."""

    lines: list[LambdaLine] = field(default_factory=list)
    charts: dict[ValidationCurve, list[tuple[LambdaLine, Series]]] = field(default_factory=dict)
    has_control: bool = False


def lambda_charts(record: RunRecord) -> list[LambdaCharts]:
    """What the sum of text and lambda x image scores on other queries; empty when nothing was tuned."""
    found = _Grids()
    for step, artifact in record.steps_with_artifact("evaluate"):
        grids = _grids(artifact)
        if grids:
            rows = evaluation_score_rows(artifact)
            chosen = artifact.facts.get("lambda")
            name = rows[0]["method"] if rows else step.name
            line = LambdaLine(name, len(found.lines) + 1, chosen if isinstance(chosen, float) else None)
            found.lines.append(line)
            found.has_control = found.has_control or is_control(artifact)
            for validation, series in grids.items():
                found.charts.setdefault(validation, []).append((line, series))
    if not found.lines:
        return []
    panels = tuple(_panel(validation, lines) for validation, lines in found.charts.items())
    return [LambdaCharts(tuple(found.lines), panels, "" if found.has_control else NO_CONTROL_GRID)]


def _panel(validation: ValidationCurve, lines: list[tuple[LambdaLine, Series]]) -> Panel:
    benchmark, metric, protocol = validation
    ranking, texts, preprocessing = split_protocol(protocol)
    title = f"{group_title(ComparisonGroup(benchmark, '', ''))} {metric}"
    about = ", ".join(part for part in (ranking, texts and f"texts {texts}", preprocessing) if part)
    drawn = [(series, line.colour, line.chosen) for line, series in lines]
    svg = Markup(weight_panel(drawn, f"{title} by lambda ({about})"))  # noqa: S704 - the chart escapes all names
    value_at = [dict(zip(series.x, series.y, strict=True)) for _, series in lines]
    # Grids of several evaluations may differ; a row per weight of any of them.
    weights = sorted({weight for values in value_at for weight in values})
    rows = tuple((weight, tuple(values.get(weight) for values in value_at)) for weight in weights)
    return Panel(title, about, svg, tuple(line.method for line, _ in lines), rows)


def _grids(evaluation: Artifact) -> dict[ValidationCurve, Series]:
    """The values of each validation benchmark in order of lambda."""
    if not has_columns(evaluation, "curve.parquet", ("step", "name", "value")):
        return {}
    series = {curve.name: curve for curve in read_curve(evaluation)}
    weights = series.pop("lambda", None)
    if weights is None:
        return {}
    found = {}
    for name, curve in series.items():
        parts = VALIDATION_CURVE_PATTERN.fullmatch(name)
        points = sorted(zip(weights.y, curve.y, strict=False))
        validation = (parts[1], parts[2], parts[3]) if parts else (name, "", "")
        found[validation] = Series(name, [x for x, _ in points], [y for _, y in points])
    return found
