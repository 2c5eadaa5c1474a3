import subprocess
import sys


def test_the_benchmarks_need_numpy_and_nothing_heavy() -> None:
    code = "import sys, zscir.benchmarks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "pandas", "pyarrow", "PIL", "pydantic", "prefect", "transformers", "open_clip", "scipy"}
    assert "numpy" in loaded
    assert not heavy & set(loaded)
