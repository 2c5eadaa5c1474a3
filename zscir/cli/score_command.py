"""zscir score: compute a benchmark's metrics, and its test server's files, from features made elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zscir.cli.options import JsonOption
from zscir.cli.output import print_lines, print_rows

if TYPE_CHECKING:
    from zscir.benchmarks.feature_files import FeatureScores

BenchmarkArgument = Annotated[str, typer.Argument(help="Its name, such as cirr; an unknown one lists all there are")]
RootOption = Annotated[Path, typer.Option(help="The benchmark's folder, laid out as its authors' repository is.")]
QueriesOption = Annotated[Path, typer.Option(help=".npy, float, [Q, D]")]
GalleryOption = Annotated[Path, typer.Option(help=".npy, float, [G, D]; GeneCIS [Q, 1+G, D], the target first")]
SplitOption = Annotated[str, typer.Option(help="val, test1 (CIRR), test (CIRCO)")]
CategoryOption = Annotated[str | None, typer.Option(help="FashionIQ: dress, shirt or toptee")]
TaskOption = Annotated[str | None, typer.Option(help="GeneCIS: focus_attribute, change_object, ...")]
ProtocolOption = Annotated[str | None, typer.Option(help="FashionIQ: original, val or pli; CIRR: soft")]
TextsOption = Annotated[str, typer.Option(help="Text protocol of the queries, to stand in the table: searle")]
GalleryIdsOption = Annotated[
    Path | None, typer.Option(help="Ids of the gallery rows, in any order: a JSON list, or one a line")
]
QueryIdsOption = Annotated[Path | None, typer.Option(help="Ids of the query rows (CIRR: pairid), if not in file order")]
MissingOption = Annotated[
    int,
    typer.Option("--allow-missing", min=0, help="So many gallery images may have no row; the protocol then says so"),
]
SubmissionOption = Annotated[Path | None, typer.Option(help="Folder for the test server's files")]
OfficialOption = Annotated[bool, typer.Option(help="Refuse annotation files that differ from the official ones")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:1: where one gallery is ranked (not GeneCIS)")]
SCORED_COLUMNS = ("benchmark", "split", "protocol", "metric", "value", "hits", "n", "low", "high")


def score_command(
    benchmark: BenchmarkArgument,
    root: RootOption,
    queries: QueriesOption,
    gallery: GalleryOption,
    split: SplitOption = "val",
    category: CategoryOption = None,
    task: TaskOption = None,
    protocol: ProtocolOption = None,
    texts: TextsOption = "",
    gallery_ids: GalleryIdsOption = None,
    query_ids: QueryIdsOption = None,
    allow_missing: MissingOption = 0,
    submission: SubmissionOption = None,
    official: OfficialOption = False,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Score features made elsewhere with the benchmark's own metrics; write the test server's files.

    Example: zscir score cirr --root data/CIRR --queries q.npy --gallery g.npy
    """
    from zscir.benchmarks.feature_files import FeatureFiles, ScoreRequest, score_files

    request = ScoreRequest(benchmark, root, split, category, task, protocol, official)
    files = FeatureFiles(queries, gallery, query_ids, gallery_ids, allow_missing)
    found = score_files(request, files, texts, submission_out=submission, **_scorer(device))
    rows = [{**vars(row), **_missing_columns(found, allow_missing)} for row in found.scores]
    print_rows(rows, as_json, _title(found, allow_missing), None if as_json else SCORED_COLUMNS)
    if submission is not None and not as_json:
        print_lines(f"submission files: {submission}")


def _scorer(device: str) -> dict[str, Any]:
    """Torch is imported for a GPU only: it takes longer than most galleries take by NumPy."""
    if device == "cpu":
        return {}
    from zscir.evaluation.gpu_ranking import scorer_from_name

    return {"scorer": scorer_from_name(device)}


def _missing_columns(found: "FeatureScores", allowed: int) -> dict[str, Any]:
    """What stands beside every number when images were allowed to be missing."""
    return {"allow_missing": allowed, "missing": found.missing, "missing_ids": found.missing_ids} if allowed else {}


def _title(found: "FeatureScores", allowed: int) -> str:
    if not allowed:
        return ""
    return f"{found.missing} gallery images are missing ({allowed} may be){_listed(found.missing_ids)}"


def _listed(ids: Sequence[str]) -> str:
    from zscir.benchmarks.files import shortened

    return f": {shortened(ids, 10)}" if ids else ""
