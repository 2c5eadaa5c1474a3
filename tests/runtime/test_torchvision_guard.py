"""The guard in processes of their own: with the real packages, and with made-up ones for machines we do not have."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

FAKE_TORCH = """
import types
version = types.SimpleNamespace(cuda={cuda!r})
defined = []
class Library:
    def __init__(self, name, kind): self.name = name
    def define(self, schema): defined.append(schema.partition("(")[0])
library = types.SimpleNamespace(Library=Library)
ops = types.SimpleNamespace(torchvision=types.SimpleNamespace(**{{name: None for name in {existing!r}}}))
"""


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    before = f"import sys; sys.path[:0] = {[str(one) for one in path]!r}\n"
    return subprocess.run([sys.executable, "-c", before + code], cwd=REPO, capture_output=True, text=True, check=False)


def declared(
    folder: Path, *, cuda: str | None = None, extension: bytes | None = None, existing: tuple[str, ...] = ()
) -> str:
    """What the guard declares beside a made-up torch and torchvision."""
    for name in ("torch", "torchvision"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    (folder / "torch/__init__.py").write_text(FAKE_TORCH.format(cuda=cuda, existing=existing))
    if extension is not None:
        (folder / "torchvision/_C.so").write_bytes(extension)
    done = run("import zscir, torchvision, torch; print(torch.defined)", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loadable_library() -> bytes:
    from markupsafe import _speedups

    return Path(_speedups.__file__).read_bytes()


def test_installing_twice_leaves_one_guard_and_imports_nothing() -> None:
    done = run(
        "import zscir, sys, importlib.util\n"
        "from zscir.runtime import torchvision_guard as guard\n"
        "guard.install_torchvision_guard(); guard.install_torchvision_guard()\n"
        "print(sum(isinstance(one, guard.TorchvisionFinder) for one in sys.meta_path))\n"
        "print(importlib.util.find_spec('torchvision') is not None, 'torch' in sys.modules)\n"
    )
    assert done.stdout.split() == ["1", "True", "False"], done.stderr


def test_open_clip_and_a_language_model_import_with_the_guard() -> None:
    done = run(
        "import zscir, open_clip\n"
        "from transformers import LlamaForCausalLM\n"
        "from torchvision.transforms import v2\n"
        "print(open_clip.__version__, LlamaForCausalLM.__name__, v2.Resize.__name__)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["LlamaForCausalLM", "Resize"]


def test_without_the_guard_torchvision_fails_on_this_machine() -> None:
    done = run("import torchvision")
    if done.returncode == 0:
        pytest.skip("torch and torchvision are of one kind here; the guard has nothing to do")
    assert "operator torchvision::nms does not exist" in done.stderr


def test_a_cpu_torch_without_a_loadable_extension_gets_the_operators(tmp_path: Path) -> None:
    assert declared(tmp_path, extension=b"linked against CUDA") == "['nms', 'qnms']"


def test_a_torchvision_without_any_extension_gets_the_operators(tmp_path: Path) -> None:
    assert declared(tmp_path) == "['nms', 'qnms']"


def test_a_cuda_torch_is_left_alone(tmp_path: Path) -> None:
    assert declared(tmp_path, cuda="13.0", extension=b"not even looked at") == "[]"


def test_an_extension_that_loads_is_left_alone(tmp_path: Path) -> None:
    assert declared(tmp_path, extension=loadable_library()) == "[]"


def test_operators_that_another_guard_declared_are_left_alone(tmp_path: Path) -> None:
    assert declared(tmp_path, existing=("nms", "qnms")) == "[]"


def test_a_missing_torchvision_is_missing_as_ever(tmp_path: Path) -> None:
    done = run("sys.path[:] = [one for one in sys.path if 'site-packages' not in one]\nimport zscir, torchvision")
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr


def test_packages_are_set_to_be_quiet_unless_the_user_set_otherwise() -> None:
    code = "import os; {}import zscir; print(os.environ['DO_NOT_TRACK'], os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    assert run(code.format("")).stdout.split() == ["1", "1"]
    assert run(code.format("os.environ['DO_NOT_TRACK'] = '0'; ")).stdout.split() == ["0", "1"]
