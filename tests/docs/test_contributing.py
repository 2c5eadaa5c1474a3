"""The examples of CONTRIBUTING.md work as they stand: each is put into a copy of the package and used."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks, example

EXAMPLES = {
    "stage", "stage pipeline", "stage test", "llm", "llm registration", "llm spec",
    "method", "method registration", "method spec", "benchmark", "benchmark registration",
}  # fmt: skip
# The step before the example's own.
TRIPLETS = '[[steps]]\nname = "mask_triplets"\nstage = "mask_triplets"\ninputs = { images = "file:images" }\n'


@dataclass(frozen=True)
class Copy:
    """A copy of the package to which a contribution is added."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the first ``old`` (a pattern) in a file; it must be there."""
        path = self.folder / name
        text, count = re.subn(old, lambda _: new, path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
        assert count == 1, f"{name}: nothing matches {old}"
        path.write_text(text, encoding="utf-8")

    def run(self, *command: str) -> str:
        """The output of Python in the copy."""
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
        done = subprocess.run(
            [sys.executable, *command], cwd=self.folder, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ZSCIR_STORE": str(self.folder / "store")},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    shutil.copytree(ROOT / "zscir", tmp_path / "zscir", ignore=shutil.ignore_patterns("__pycache__", "data_specs"))
    (tmp_path / "data_specs").symlink_to(ROOT / "data_specs")
    return Copy(tmp_path)


def test_every_example_is_one_that_is_tested_here() -> None:
    named = [block.example for language in ("python", "toml") for block in blocks(language, "CONTRIBUTING.md")]
    assert sorted(named) == sorted(EXAMPLES)


def test_the_stage_passes_its_test_and_a_pipeline_plans_it(copy: Copy) -> None:
    copy.write("zscir/stages/sample_triplets.py", example("stage"))
    copy.write("test_sample_triplets.py", example("stage test"))
    copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "test_sample_triplets.py")
    (copy.folder / "images").mkdir()
    copy.write("part.toml", f'name = "part"\n{TRIPLETS}{example("stage pipeline")}')
    plan = json.loads(copy.run("-c", "from zscir.cli.main import main; main()", "plan", "part.toml", "--json"))
    assert [(row["step"], row["action"]) for row in plan] == [("mask_triplets", "make"), ("sample_triplets", "make")]


def test_the_backend_answers_the_requests_of_a_stage(copy: Copy) -> None:
    copy.write("zscir/llm/restate.py", example("llm"))
    copy.edit("zscir/llm/models.py", r"^(LlmModel = Annotated\[)", "LlmModel = Annotated[RestateModel | ")
    copy.edit(
        "zscir/llm/models.py", r"^from zscir\.runtime", "from zscir.llm.restate import RestateModel\nfrom zscir.runtime"
    )
    lines = "".join(f"    {line}\n" for line in example("llm registration").splitlines())
    head = r"^    if isinstance\(model, TemplateModel\):$"
    copy.edit("zscir/llm/open_backend.py", head, f"{lines}    if isinstance(model, TemplateModel):")
    imports = "from zscir.llm.restate import RestateBackend, RestateModel\n"
    copy.edit("zscir/llm/open_backend.py", r"^from zscir\.llm\.models", f"{imports}from zscir.llm.models")
    copy.write("spec.toml", example("llm spec"))
    copy.write("ask.py", ASK)
    assert copy.run("ask.py").strip() == "2 answered, 2 triplets: find a red cube"


ASK = """
from pathlib import Path

from zscir.runtime.schemas import CANDIDATES_SCHEMA, TRIPLETS_SCHEMA, read_rows, write_table
from zscir.stages.ask_llm import AskSpec, ask_llm
from zscir.stages.parse_llm import ParseSpec, parse_llm
from zscir.store.artifacts import Artifact

folders = [Path(name) for name in ("candidates", "responses", "triplets")]
for folder in folders:
    folder.mkdir()
candidates, responses, triplets = folders
rows = [{"candidate_id": str(n), "reference_key": "a", "target_key": "b", "reference_caption": "a blue ball",
         "target_caption": "a red cube"} for n in range(2)]
write_table(candidates / "candidates.parquet", CANDIDATES_SCHEMA, rows)
given = Artifact.of_folder(candidates)
prompt = Artifact.of_folder("data_specs/triplets/prompts/pair.md")
facts = ask_llm(AskSpec.load(Path("spec.toml")), candidates=given, prompt=prompt, out=responses)
parse_llm(ParseSpec(), candidates=given, responses=Artifact.of_folder(responses), out=triplets)
made = read_rows(triplets / "triplets.parquet", TRIPLETS_SCHEMA)
print(f"{facts['answered']} answered, {len(made)} triplets: {made[0]['text']}")
"""


def test_the_method_trains_is_stored_and_answers_the_same_again(copy: Copy) -> None:
    copy.write("zscir/methods/offset.py", example("method"))
    entry = textwrap.indent(example("method registration").rstrip(), " " * 8)
    copy.edit("zscir/methods/registry.py", r"^METHODS = methods_by_name\(\n", f"METHODS = methods_by_name(\n{entry},\n")
    copy.write("spec.toml", example("method spec"))
    copy.write("train.py", TRAIN)
    assert copy.run("train.py").split() == ["offset", "lower", "same"]


TRAIN = """
from pathlib import Path

import torch

from zscir.methods.build import new_method, origin_of
from zscir.methods.checkpoint import load_method, save_checkpoint
from zscir.methods.protocol import Batch
from zscir.store.artifacts import Artifact
from zscir.training.specs import TrainSpec

spec = TrainSpec.load(Path("spec.toml"))
backbone = Artifact.of_folder("data_specs/backbones/tabletop")
method = new_method(spec.method, 0, backbone, None, ())
size = method.pixels.size_px
pixels = torch.randint(0, 256, (2, 8, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
texts = [f"a red cube and {n} blue spheres" for n in range(8)]
batch = Batch(0, 0, texts, texts, texts, pixels[0], pixels[1], texts, texts, [0] * 8, 0.75)
optimiser = torch.optim.AdamW([weight for weight in method.parameters() if weight.requires_grad], lr=spec.optim.lr)
losses = []
for _ in range(20):
    loss = method.loss(batch)["loss"]
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(float(loss.detach()))
Path("checkpoint").mkdir()
save_checkpoint(method, Path("checkpoint"), False, origin_of(spec.method, backbone, None))
again = load_method(Artifact.of_folder("checkpoint"), backbone, torch.device("cpu"))
same = torch.equal(again.queries(pixels[0], texts), method.eval().queries(pixels[0], texts))
print(again.name, "lower" if losses[-1] < losses[0] else "higher", "same" if same else "other")
"""


def test_the_benchmark_loads_and_scores_on_the_command_line(copy: Copy) -> None:
    copy.write("zscir/benchmarks/shelf.py", example("benchmark"))
    copy.edit("zscir/benchmarks/registry.py", r"^BENCHMARKS = .*$", example("benchmark registration").strip())
    copy.edit(
        "zscir/benchmarks/registry.py",
        r"^from zscir\.benchmarks\.info",
        "from zscir.benchmarks.shelf import SHELF\nfrom zscir.benchmarks.info",
    )
    (copy.folder / "root").mkdir()
    entries = [
        {"reference": "a", "target": "b", "caption": "fewer cups"},
        {"reference": "b", "target": "c", "caption": "red"},
    ]
    copy.write("root/val.json", json.dumps(entries))
    np.save(copy.folder / "q.npy", np.eye(3, dtype=np.float32)[[1, 0]])  # the target first, then last
    np.save(copy.folder / "g.npy", np.eye(3, dtype=np.float32))
    words = ["score", "shelf", "--root", "root", "--queries", "q.npy", "--gallery", "g.npy", "--json"]
    rows = json.loads(copy.run("-c", "from zscir.cli.main import main; main()", *words))
    assert {row["metric"]: row["value"] for row in rows} == {"R@1": 50.0, "R@5": 100.0}
