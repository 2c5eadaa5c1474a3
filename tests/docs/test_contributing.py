"""The examples of CONTRIBUTING.md work as they stand: each is put into a copy of the package and used."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, example

EXAMPLES = {"stage", "stage pipeline", "stage test", "llm", "llm registration", "llm spec"}
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


def test_the_backend_answers_a_stage_that_asks_it(copy: Copy) -> None:
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
