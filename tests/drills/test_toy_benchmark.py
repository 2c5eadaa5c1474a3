"""Drill: a new benchmark is one file (toy_benchmark.py) and one line of the registry, from evaluate to leaderboard."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.drills.toy_benchmark import TOY, Toy
from tests.evaluation import squares
from tests.support.environment import SCRATCH
from tests.support.small_run import RecordedRun, new_store
from zscir.benchmarks import Query
from zscir.benchmarks.info import BenchmarkInfo
from zscir.benchmarks.leaderboard import leaderboard_markdown, measured_entries
from zscir.benchmarks.registry import BENCHMARKS, benchmarks_by_name
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.lineage.sql_views import REAL_SCORES_SQL, query_store_rows
from zscir.pipeline.stage import stage
from zscir.report.leaderboard_page import run_leaderboards
from zscir.report.page import write_report
from zscir.report.run_data import read_record
from zscir.report.scores import page_score_tables
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec
from zscir.stages.embed_benchmarks import EmbedBenchmarksSpec, embed_benchmarks
from zscir.stages.evaluate import EvaluateSpec, evaluate
from zscir.stages.tabulate import TabulateSpec, tabulate
from zscir.store.artifacts import Artifact, Facts

IMAGES = [f"i{number}" for number in range(9)]
TOY_ONLY = {"benchmarks": [{"name": "toy"}]}


class NothingSpec(Spec):
    """A stage that asks for nothing."""


@stage(version=1)
def toy_folder(spec: NothingSpec, out: Path) -> Facts:
    """A benchmarks artifact that holds the toy alone."""
    root = out / "toy"
    queries = [
        {"reference": IMAGES[number], "text": squares.WORDS[number], "target": IMAGES[number + 1]}
        for number in range(4)
    ]
    squares.write_json(root / "queries.val.json", queries)
    squares.write_json(root / "gallery.val.json", IMAGES)
    images = {name: (f"{name}.png", squares.picture(number)) for number, name in enumerate(IMAGES)}
    squares.write_images(root, images, loose=False)
    return {"rows": len(queries)}


@cache
def clip() -> Artifact:
    return squares.clip_checkpoint(SCRATCH / "drills" / "clip")


@cache
def benchmarks() -> Artifact:
    folder = SCRATCH / "drills" / "benchmarks"
    folder.mkdir(parents=True)
    toy_folder(NothingSpec(), out=folder)
    return Artifact.of_folder(folder)


def register(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> BenchmarkInfo:
    """The one line of the registry; ``changes`` are what was forgotten or mistaken in the record."""
    info = dataclasses.replace(TOY, **changes)
    monkeypatch.setattr(Toy, "info", info)
    monkeypatch.setitem(BENCHMARKS, info.name, info)
    return info


def test_a_registered_benchmark_is_in_tables_report_and_leaderboard(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    store = new_store("toy_benchmark")
    run = RecordedRun(store, "20260101-120000-dddddd")
    folder = run.step("toy_folder", toy_folder, NothingSpec())
    spec = EmbedBenchmarksSpec.parse({"benchmarks": ["toy"]}, "drill")
    gallery = run.step("gallery", embed_benchmarks, spec, backbone=clip(), benchmarks=folder)
    assert gallery.facts == {"rows": 9, "toy": 9}
    inputs = {"checkpoint": clip(), "benchmarks": folder, "gallery": gallery}
    controls = [{"control": "image"}, {"control": "text"}, {"control": "sum", "weight": 1.0}]
    scores = [
        run.step(f"score_{number}", evaluate, EvaluateSpec.parse({**TOY_ONLY, **fields}, "drill"), **inputs)
        for number, fields in enumerate([*controls, {"method": "mine"}])
    ]
    table = run.step("table", tabulate, TabulateSpec(), scores=scores)
    run.recorder.finish("succeeded")

    markdown = table.path("table.md").read_text()
    assert "| method | backbone | texts | preprocessing | toy val (official, warp) R@1 (n 4) |" in markdown
    assert "## toy val (official, warp)" in markdown
    assert markdown.count("| toy val (official, warp) R@1 |") == 3  # paired tests: the best against the three others
    record = read_record(store, "latest")
    overview = page_score_tables(record)[0]
    assert [(head.name, head.columns) for head in overview.groups] == [("Toy", 1)]
    assert [head.name for head in overview.columns] == ["R@1"]
    assert [row.method for row in overview.rows] == ["image only", "text only", "sum, lambda 1", "mine"]
    ours = [table for table in run_leaderboards(record)[0].tables if table.title == "Toy"]
    assert [{row.entry.method for row in table.rows} for table in ours] == [{row.method for row in overview.rows}]
    page = write_report(store, "latest", None).read_text()
    assert "Retrieval: Toy (val)" in page
    assert "cannot be shown" not in page
    board = leaderboard_markdown(measured_entries(query_store_rows(store, REAL_SCORES_SQL)))
    assert "## toy val (official)\n\n| method | backbone | R@1 | R@5 | source | note |" in board
    assert board.count("| **mine** |") == 1

    monkeypatch.undo()  # a version that does not know the benchmark still shows what is stored
    assert "cannot be shown" not in write_report(store, "latest", None).read_text()


REQUIRED = [field.name for field in dataclasses.fields(BenchmarkInfo) if field.default is field.default_factory]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_forgotten_field_is_named(name: str) -> None:
    given = {field.name: getattr(TOY, field.name) for field in dataclasses.fields(TOY) if field.name != name}
    with pytest.raises(TypeError, match=f"'{name}'"):
        BenchmarkInfo(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "name must not be empty"),
        ({"title": "", "text_makers": {}}, "title, text_makers must not be empty"),
        ({"splits": "val", "headline_metrics": "R@1"}, "splits, headline_metrics must be tuples"),
        ({"name": "toy/part"}, "name must be an identifier"),
        ({"published_split": "test"}, "published_split 'test' is not one of splits"),
        ({"headline_metrics": ("R@10",)}, "headline_metrics must be among literature_metrics"),
        ({"headline_metrics": ("R@5",)}, "the first of headline_metrics and of literature_metrics must be one"),
        ({"parts": ("a", "b")}, "parts, part_argument and part_noun belong together"),
        ({"part_argument": "task"}, "parts, part_argument and part_noun belong together"),
        ({"aspects": ("negation",)}, "aspects and aspect_metric belong together"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"benchmark '.*' is registered wrongly: .*{words}"):
        dataclasses.replace(TOY, **changes)


def test_two_benchmarks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two benchmarks bear one name; registered are toy, cirr, toy"):
        benchmarks_by_name(TOY, BENCHMARKS["cirr"], dataclasses.replace(TOY, title="Copied"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"split": "test"}, "toy has no split 'test'; it has val"),
        ({"protocol": "soft"}, "toy has no protocol 'soft'; it has official"),
        ({"parts": ["dress"]}, "toy has no part 'dress'; it has no parts"),
        ({"name": "unregistered"}, "no benchmark 'unregistered'; there are fashioniq, cirr, circo, genecis, toy"),
    ],
)
def test_what_the_record_does_not_offer_is_refused_when_the_spec_is_read(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], words: str
) -> None:
    register(monkeypatch)
    with pytest.raises(RequestError, match=f"pipeline.toml: 'benchmarks.0.*{words}"):
        EvaluateSpec.parse({"benchmarks": [{"name": "toy", **entry}]}, "pipeline.toml")


def test_an_unregistered_benchmark_is_refused_when_the_spec_is_read() -> None:
    for spec, values in ((EvaluateSpec, TOY_ONLY), (EmbedBenchmarksSpec, {"benchmarks": ["toy"]})):
        with pytest.raises(RequestError, match="no benchmark 'toy'; there are fashioniq, cirr, circo, genecis"):
            spec.parse(values, "pipeline.toml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_makers": {"raw": TOY.text_makers["raw"]}}, "no text protocol 'pli' for toy; it has raw"),
        ({"release_facts": True}, r"benchmarks/toy.toml: no such file\. .* register the benchmark with release_facts"),
        ({"literature_metrics": ("R@1", "R@10")}, r"toy val \(official\): its record .* names the metrics R@10, which"),
        ({"derived_metrics": {"mean": ("R@1", "Rsub@1")}}, "names the metrics Rsub@1, which"),
        ({"aspects": ("negation",), "aspect_metric": "mAP@9"}, "names the metrics mAP@9, which"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_before_an_image_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    register(monkeypatch, **changes)
    monkeypatch.setattr(BenchmarkImages, "pixel_batches", lambda *given: pytest.fail("an image was read"))
    spec = EvaluateSpec.parse({"benchmarks": [{"name": "toy"}], "method": "mine"}, "drill")
    with pytest.raises(RequestError, match=words):
        evaluate(spec, checkpoint=clip(), benchmarks=benchmarks(), out=tmp_path)


def test_a_class_without_its_record_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch)
    monkeypatch.setattr(Toy, "info", BENCHMARKS["cirr"])
    with pytest.raises(RequestError, match="toy: its loader gives a Toy, whose 'info' is another record or none"):
        evaluate(EvaluateSpec.parse(TOY_ONLY, "drill"), checkpoint=clip(), benchmarks=benchmarks(), out=tmp_path)


def test_the_text_makers_write_the_queries_of_their_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    bench = Toy("val", "official", [Query("0", "i0", ("is red",), ("i1",))], IMAGES)
    assert bench.texts("pli") == [["is red"]]
    assert bench.texts("tscir") == [["a photo of * that is red"]]
    with pytest.raises(
        RequestError, match="no text protocol 'searle' for toy; it has cirevl, clip4cir, pli, raw, tscir"
    ):
        bench.texts("searle")
