"""Options and arguments that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str | None, typer.Option("--store", help="Folder or s3://bucket/prefix; default ZSCIR_STORE or ./zscir-store")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="STEP.field=value or source=FILE; may be repeated.")]
OnlyOption = Annotated[str | None, typer.Option("--only", help="Run this step or stage only.")]
FromOption = Annotated[str | None, typer.Option("--from", help="Run this step or stage and what depends on it.")]
PipelineArgument = Annotated[Path, typer.Argument(help="A pipeline file, e.g. data_specs/pipelines/tabletop.toml")]
RunArgument = Annotated[str, typer.Argument(help="A run's id, a unique prefix, or latest")]
OutOption = Annotated[Path | None, typer.Option(help="The HTML file; default STORE/reports/RUN_ID.html")]
MaxHoursOption = Annotated[
    float | None, typer.Option("--max-hours", min=0, help="Stop cleanly when the run takes longer than so many hours.")
]
MaxUsdOption = Annotated[
    float | None, typer.Option("--max-usd", min=0, help="Stop cleanly when the run has cost so many US dollars.")
]
TokenOption = Annotated[
    str | None, typer.Option("--plan", help="The token that `zscir plan` printed: run that plan or none.")
]


def with_limits(changes: list[str] | None, max_hours: float | None, max_usd: float | None) -> list[str]:
    """``changes`` and the budget's options as changes of the pipeline's ``[limits]``, so that a rerun has them too."""
    given = {"max_hours": max_hours, "max_usd": max_usd}
    return [*(changes or []), *(f"limits.{name}={value}" for name, value in given.items() if value is not None)]
