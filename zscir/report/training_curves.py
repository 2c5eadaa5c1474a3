"""Charts of training curves: the loss, its parts and the learning rate of each training of a run."""

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
    return [_curve(step.name, artifact) for step, artifact in record.steps_with_artifact("train")]


def _curve(name: str, checkpoint: Artifact) -> CurveCharts:
    series = sorted(read_curve(checkpoint), key=_loss_first)
    drawn = [
        curve_panel(curve, number, f"{name}: {curve.name} by training step") for number, curve in enumerate(series)
    ]
    facts = checkpoint.facts
    counts = [
        f"{facts[fact]:,} {word}"
        for fact, word in (("steps", "steps"), ("rows", "triplets"), ("parameters", "stored numbers"))
        if isinstance(facts.get(fact), int)
    ]
    loss = next((curve for curve in series if curve.name == "loss" and curve.y), None)
    ends = [f"loss {loss.y[0]:.3g} → {loss.y[-1]:.3g}"] if loss is not None else []
    return CurveCharts(name, " · ".join([*counts, *ends]), tuple(map(Markup, drawn)))  # the chart escapes all names


def _loss_first(series: Series) -> tuple[int, str]:
    """The loss first, the learning rate last, parts by name between them."""
    return ({"loss": 0, "lr": 2}.get(series.name, 1), series.name)
