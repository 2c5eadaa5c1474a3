"""The four methods are registered completely, and reading their specs imports no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zscir.benchmarks.registry import BENCHMARKS
from zscir.methods.build import new_method
from zscir.methods.checkpoint import method_class, read_config
from zscir.methods.registry import METHODS, MethodInfo
from zscir.methods.specs import ClipSpec, PliSpec
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs
from zscir.store.artifacts import Artifact
from zscir.training.specs import OptimSpec, TrainSpec


@pytest.mark.parametrize("info", METHODS.values(), ids=METHODS)
def test_a_registered_method_has_its_spec_and_its_class(info: MethodInfo) -> None:
    assert info.spec_class.model_fields["name"].default == info.name
    assert method_class(info).text_protocol == info.text_protocol
    assert info.init_from is None or info.init_from in METHODS


@pytest.mark.parametrize("info", METHODS.values(), ids=METHODS)
def test_every_benchmark_has_the_texts_that_a_method_takes(info: MethodInfo) -> None:
    assert [name for name, benchmark in BENCHMARKS.items() if info.text_protocol not in benchmark.text_makers] == []


def test_the_shipped_specs_are_read_without_torch() -> None:
    folder = data_specs() / "methods"
    code = (
        "import sys; from pathlib import Path; from zscir.stages.train import TrainSpec\n"
        f"read = [TrainSpec.load(path) for path in sorted(Path({str(folder)!r}).glob('*.toml'))]\n"
        "print(len(read) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_spec_that_is_not_the_registered_one_of_its_name_is_refused() -> None:
    class OwnPli(PliSpec):
        more: int = 0

    for method in (OwnPli(), ClipSpec.model_construct(name="magic")):
        with pytest.raises(RequestError, match=r"OwnPli is not the registered spec|no method 'magic'"):
            TrainSpec(method=method, batch_size=2, optim=OptimSpec(lr=1.0))


def test_a_method_table_without_a_name_lists_the_names() -> None:
    for table in ({"tau": 0.1}, {"name": 3}, "pli"):
        with pytest.raises(RequestError, match="a table with a name; registered are clip, pli, tscir_map"):
            TrainSpec.parse({"method": table, "batch_size": 2, "optim": {"lr": 1.0}}, "x.toml")


def test_a_checkpoint_of_an_unknown_method_names_it_and_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "method": {"name": "magic"}}))
    with pytest.raises(RequestError, match=r"config\.json: format 1, method 'magic': this version reads .* clip, pli"):
        read_config(Artifact.of_folder(tmp_path))


def test_a_start_that_a_method_does_not_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "method": {"name": "pli"}}))
    other = Artifact.of_folder(tmp_path)
    with pytest.raises(RequestError, match=r"takes no input 'init'; only tscir_compose \(a tscir_map checkpoint\)"):
        new_method(PliSpec(), 0, other, other, [])
    spec = METHODS["tscir_compose"].spec_class(name="tscir_compose")
    with pytest.raises(RequestError, match="needs the input 'init': the tscir_map checkpoint"):
        new_method(spec, 0, other, other, [])
