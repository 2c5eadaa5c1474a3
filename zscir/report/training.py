"""Training: the curves of a run's trainings become charts."""

from dataclasses import dataclass

from markupsafe import Markup

from zscir.report.charts import Series, curve_panel, read_curve
from zscir.report.run_data import RunRecord
from zscir.store.artifacts import Artifact


@dataclass(frozen=True)
class CurveCharts:
    """Charts under a title."""

    title: str
    about: str
    svgs: tuple[Markup, ...]


def training_curves(record: RunRecord) -> list[CurveCharts]:
    """One group of charts for each training: the loss, its parts, the learning rate."""
    return [_curve(step.name, artifact) for step, artifact in record.made_by("train")]


def _curve(name: str, checkpoint: Artifact) -> CurveCharts:
    series = sorted(read_curve(checkpoint), key=_place)
    svgs = [_svg(one, number, name) for number, one in enumerate(series)]
    facts = checkpoint.facts
    counts = [
        f"{facts[fact]:,} {word}"
        for fact, word in (("steps", "steps"), ("rows", "triplets"), ("parameters", "stored numbers"))
        if isinstance(facts.get(fact), int)
    ]
    loss = next((one for one in series if one.name == "loss" and one.y), None)
    ends = [f"loss {loss.y[0]:.3g} → {loss.y[-1]:.3g}"] if loss is not None else []
    return CurveCharts(name, " · ".join([*counts, *ends]), tuple(svgs))


def _place(series: Series) -> tuple[int, str]:
    """The loss first, the learning rate last, parts by name between them."""
    return ({"loss": 0, "lr": 2}.get(series.name, 1), series.name)


def _svg(series: Series, number: int, step: str) -> Markup:
    return Markup(curve_panel(series, number, f"{step}: {series.name} by training step"))  # noqa: S704 - charts escape names
