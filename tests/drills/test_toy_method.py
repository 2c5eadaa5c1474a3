"""A new method is one file and one line of the registry: a toy goes from training to the leaderboard that way."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import pytest
import torch
from torch import Tensor

from tests.drills import toy_method
from tests.drills.toy_method import Toy, ToySpec
from tests.evaluation import squares
from tests.methods import tiny
from tests.support.small_run import PlainSpec, RecordedRun, new_store
from zscir.benchmarks.leaderboard import leaderboard_markdown, measured_entries
from zscir.lineage.sql_views import REAL_SCORES_SQL, query_store_rows
from zscir.methods.build import check_reloads
from zscir.methods.checkpoint import load_method
from zscir.methods.protocol import StoredMethod, TrainableMethod
from zscir.methods.registry import METHODS, MethodInfo, methods_by_name
from zscir.methods.specs import MethodSpec
from zscir.pipeline.stage import stage
from zscir.report.page import write_report
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import CURVE_SCHEMA, SCORES_SCHEMA, read_rows
from zscir.stages.embed_benchmarks import EmbedBenchmarksSpec, embed_benchmarks
from zscir.stages.evaluate import EvaluateSpec, evaluate
from zscir.stages.tabulate import TabulateSpec, tabulate
from zscir.stages.train import TrainSpec, train
from zscir.store.artifacts import Artifact, Facts

TOY = MethodInfo(
    name="toy", spec="tests.drills.toy_method:ToySpec", method="tests.drills.toy_method:Toy", text_protocol="pli",
    trains="the gate", holds_towers=False,
)  # fmt: skip
BACKBONE = {"name": "clip", "architecture": tiny.ARCHITECTURE.literals(), "pixels": tiny.PIXELS.literals()}
BENCHMARKS = ("fashioniq", "cirr", "circo", "genecis")


@pytest.fixture(autouse=True)
def toy_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", TOY)


def train_spec(method: dict[str, Any]) -> TrainSpec:
    values = {"method": method, "batch_size": 4, "steps": 3, "optim": {"lr": 0.01}}
    return TrainSpec.parse(values, "toy.toml")


@stage(version=1)
def pack(spec: PlainSpec, out: Path) -> Facts:
    """Triplets of coloured noise, as the stage pack lays them out."""
    tiny.pack(out / "made", triplets=True)
    for path in (out / "made").iterdir():
        shutil.move(path, out / path.name)
    (out / "made").rmdir()
    return {"rows": 12}


@stage(version=1)
def import_benchmarks(spec: PlainSpec, out: Path) -> Facts:
    """The four benchmarks, small."""
    squares.benchmarks(out)
    return {}


@pytest.fixture(scope="module")
def run() -> Iterator[RecordedRun]:
    """A finished run: a backbone and the toy are trained, the toy is evaluated, and a table is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "toy", TOY)
        run = RecordedRun(new_store("toy_method"), "20260101-120000-dddddd")
        data = run.step("pack", pack, PlainSpec())
        benchmarks = run.step("import_benchmarks", import_benchmarks, PlainSpec())
        backbone = run.step("backbone", train, train_spec(BACKBONE), data=data)
        toy = run.step("train_toy", train, train_spec({"name": "toy"}), data=data, backbone=backbone)
        spec = EvaluateSpec.parse({"benchmarks": [{"name": name} for name in BENCHMARKS]}, "test")
        inputs = {"checkpoint": toy, "backbone": backbone, "benchmarks": benchmarks}
        scores = run.step("score_toy", evaluate, spec, **inputs)
        run.step("table", tabulate, TabulateSpec(), scores=[scores])
        run.recorder.finish("succeeded")
        yield run


def artifact_of(run: RecordedRun, step: str) -> Artifact:
    rows = query_store_rows(run.store, "SELECT step, stage, key FROM stages")
    (row,) = (row for row in rows if row["step"] == step)
    return run.store.get(row["stage"], row["key"])


def test_the_toy_is_trained_stored_and_loaded_again(run: RecordedRun) -> None:
    checkpoint, backbone = artifact_of(run, "train_toy"), artifact_of(run, "backbone")
    assert json.loads(checkpoint.path("config.json").read_text())["method"] == {"name": "toy", "tau": 0.1}
    steps = {row["step"] for row in read_rows(checkpoint.path("curve.parquet"), CURVE_SCHEMA)}
    assert steps == {0, 1, 2}
    method = load_method(checkpoint, backbone)
    assert isinstance(method, Toy)
    assert method.queries(tiny.pixels(2), ["is red", "is blue"]).shape == (2, 16)
    with pytest.raises(RequestError, match="only the gate: give its backbone"):
        load_method(checkpoint)


def test_the_toy_has_scores_on_every_benchmark_and_a_row_in_the_table(run: RecordedRun) -> None:
    rows = read_rows(artifact_of(run, "score_toy").path("scores.parquet"), SCORES_SCHEMA)
    assert {row["method"] for row in rows} == {"toy"}
    assert {row["benchmark"].split("/")[0] for row in rows} == set(BENCHMARKS)
    assert "| toy |" in artifact_of(run, "table").path("table.md").read_text()


def test_the_toy_is_in_the_report_and_on_the_leaderboard(run: RecordedRun) -> None:
    page = write_report(run.store, "latest", None).read_text()
    assert page.count("train_toy") > 1
    assert ">toy<" in page
    board = leaderboard_markdown(measured_entries(query_store_rows(run.store, REAL_SCORES_SQL)))
    assert "**toy**" in board


def test_embeddings_of_the_backbone_serve_a_method_only_if_its_entry_says_so(
    run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"benchmarks": "import_benchmarks", "backbone": "backbone", "checkpoint": "train_toy"}
    inputs = {role: artifact_of(run, step) for role, step in steps.items()}
    (tmp_path / "gallery").mkdir()
    spec = EmbedBenchmarksSpec.parse({"benchmarks": ["cirr"]}, "test")
    embed_benchmarks(spec, inputs["backbone"], inputs["benchmarks"], out=tmp_path / "gallery")
    inputs["gallery"] = Artifact.of_folder(tmp_path / "gallery")
    spec = EvaluateSpec.parse({"benchmarks": [{"name": "cirr"}]}, "test")
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="embedded with other weights"):
        evaluate(spec, **inputs, out=tmp_path / "out")
    monkeypatch.setitem(METHODS, "toy", dataclasses.replace(TOY, backbone_gallery=True))
    assert evaluate(spec, **inputs, out=tmp_path / "out")["queries"] == 4


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(MethodInfo) if f.default is dataclasses.MISSING])
def test_a_field_that_every_method_must_decide_cannot_be_forgotten(field: str) -> None:
    given = {name: value for name, value in dataclasses.asdict(TOY).items() if name != field}
    with pytest.raises(TypeError, match=field):
        MethodInfo(**given)
    if field != "holds_towers":
        with pytest.raises(RequestError, match=field):
            MethodInfo(**given, **{field: ""})


def test_the_start_of_a_method_and_where_its_spec_is_kept_are_given_together() -> None:
    with pytest.raises(RequestError, match="give both"):
        dataclasses.replace(TOY, init_from="clip")
    with pytest.raises(RequestError, match=r"init_section 'method' is a key that config\.json has"):
        dataclasses.replace(TOY, init_from="clip", init_section="method")


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="two methods bear one name; registered are toy, toy"):
        methods_by_name(TOY, dataclasses.replace(TOY, trains="both towers"))


def test_a_method_without_its_line_is_refused_when_the_spec_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METHODS, "toy")
    with pytest.raises(RequestError, match=r"toy\.toml: there is no method 'toy'; registered are clip, pli, tscir_map"):
        train_spec({"name": "toy"})


def test_a_wrong_key_of_a_method_names_what_that_method_takes() -> None:
    with pytest.raises(RequestError, match=r"toy\.toml: method 'toy': unknown key 'temperature'; allowed: name, tau"):
        train_spec({"name": "toy", "temperature": 1})


class OtherName(MethodSpec):
    name: Literal["other"] = "other"


class SavesLess(Toy):
    def weights(self) -> dict[str, Tensor]:
        return {"gate.weight": self.gate.weight}


class LoadsNothing(Toy):
    @classmethod
    def load(cls, spec: ToySpec, stored: StoredMethod) -> Self:
        return cls(stored.towers, spec)


class SavesNothing(LoadsNothing):
    def weights(self) -> dict[str, Tensor]:
        return {}


class SavesOneTensorTwice(Toy):
    def weights(self) -> dict[str, Tensor]:
        return {**super().weights(), "gate.again": self.gate.weight}


class NamedOther(Toy):
    name = "other"


class NameLess(TrainableMethod[ToySpec]):
    new, load, both_towers, loss = Toy.new, Toy.load, Toy.both_towers, Toy.loss
    queries, gallery, weights = Toy.queries, Toy.gallery, Toy.weights


def refused_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: MethodInfo, match: str) -> None:
    """Training the toy as ``info`` registers it is a RequestError that leaves no file behind."""
    monkeypatch.setitem(METHODS, "toy", info)
    data, folder = tiny.pack(tmp_path / "pack", triplets=True), tmp_path / "out"
    backbone = squares.clip_checkpoint(tmp_path / "backbone")
    folder.mkdir()
    with pytest.raises(RequestError, match=match):
        train(train_spec({"name": "toy"}), data=data, out=folder, backbone=backbone)
    assert list(folder.rglob("*")) == []


HERE = "tests.drills.test_toy_method"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"spec": "tests.drills.nowhere:ToySpec"}, "which is not there"),
        ({"spec": "tests.drills.toy_method:Spec"}, "which is not there"),
        ({"spec": "tests.drills.toy_method:Toy"}, "must be a MethodSpec whose name"),
        ({"spec": f"{HERE}:OtherName"}, "must be a MethodSpec whose name"),
        ({"method": "tests.drills.toy_method:Toi"}, "which is not there"),
        ({"method": "tests.drills.toy_method:symmetric_nce"}, "which is no class"),
        ({"method": "torch.nn:Linear"}, "is no TrainableMethod"),
        ({"method": f"{HERE}:NamedOther"}, "has name = 'other', not 'toy'"),
        ({"method": f"{HERE}:NameLess"}, "has name = None, not 'toy'"),
        ({"text_protocol": "tscir"}, "has text_protocol = 'pli', not 'tscir'"),
        ({"holds_towers": True}, "it is registered with holds_towers"),
        ({"method": f"{HERE}:SavesLess"}, "could not be loaded again.*do not fit"),
        ({"method": f"{HERE}:SavesOneTensorTwice"}, "could not be loaded again.*share memory"),
        ({"method": f"{HERE}:LoadsNothing"}, r"load leaves out \['gate.weight', 'gate.bias'\]"),
        ({"method": f"{HERE}:SavesNothing"}, "leaves out everything"),
    ],
)
def test_an_incomplete_registration_is_refused_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    refused_before_training(monkeypatch, tmp_path, dataclasses.replace(TOY, **change), match)


@pytest.mark.parametrize("member", ["new", "load", "both_towers", "loss", "queries", "gallery", "weights"])
def test_a_class_that_lacks_a_member_is_refused_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, member: str
) -> None:
    body = {name: value for name, value in vars(Toy).items() if name not in {member, "__abstractmethods__"}}
    monkeypatch.setattr(toy_method, "Toy", type("Toy", (TrainableMethod,), body))
    refused_before_training(monkeypatch, tmp_path, TOY, f"lacks {member}")


def test_the_check_before_training_moves_no_weight_and_no_draw() -> None:
    method = Toy(tiny.towers(), ToySpec())
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    state = torch.get_rng_state()
    check_reloads(method, TOY, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
