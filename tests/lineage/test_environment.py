import json
import os
import subprocess
import sys

from zscir.lineage.environment import is_worker_alive, redact, run_environment, status_by_process, worker_name
from zscir.lineage.resource_usage import ResourceMeter


def test_a_secret_of_the_environment_is_left_out_of_any_text(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    assert redact("wrong key sk-0123456789 in a short word") == "wrong key *** in a short word"


def test_a_worker_is_alive_while_its_process_is_and_not_when_its_number_is_somebody_elses():
    mine = worker_name()
    host, pid, start = mine.rsplit(":", 2)
    assert pid == str(os.getpid())
    assert is_worker_alive(mine)
    assert not is_worker_alive(f"{host}:{pid}:{int(start) - 100}")
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    assert not is_worker_alive(f"{host}:{ended.stdout.strip()}:{start}")


def test_a_worker_of_another_machine_counts_as_alive():
    assert is_worker_alive("another.host:1:1")


def test_only_a_running_run_of_a_process_that_is_gone_has_died():
    gone = '{"process": "' + worker_name().rsplit(":", 2)[0] + ':999999999:1"}'
    assert status_by_process({"status": "running", "user_config": gone}) == "died"
    assert status_by_process({"status": "failed", "user_config": gone}) == "failed"
    assert status_by_process({"status": "running", "user_config": "{}"}) == "running"


def test_a_checkout_is_known_by_its_commit_and_an_installed_package_by_none(tmp_path, monkeypatch):
    import zscir

    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path, *words],
            check=True,
            capture_output=True,
        )

    package = tmp_path / "zscir"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "other").write_text("")
    git("init")
    git("add", "other")
    git("commit", "-m", "one")
    monkeypatch.setattr(zscir, "__file__", str(package / "__init__.py"))
    assert (run_environment()["git_commit"], run_environment()["git_dirty"]) == (None, None)
    git("add", ".")
    git("commit", "-m", "two")
    assert (len(run_environment()["git_commit"]), run_environment()["git_dirty"]) == (40, False)
    (package / "__init__.py").write_text("x = 1")
    assert run_environment()["git_dirty"] is True


def test_the_meter_counts_the_work_of_this_process_and_its_children():
    meter = ResourceMeter()
    hold = "x = bytearray(150_000_000); x[::4096] = b'1' * len(x[::4096]); import time; time.sleep(1)"
    subprocess.run([sys.executable, "-c", f"{hold}; sum(range(5_000_000))"], check=True)
    sum(range(2_000_000))
    read = meter.stop()
    assert read["wall_s"] >= 1
    assert read["cpu_s"] > 0.05
    assert read["peak_rss_bytes"] > 150_000_000


def test_the_packages_are_those_that_the_standard_library_finds() -> None:
    from importlib.metadata import distributions

    found = {one.metadata["Name"]: one.metadata["Version"] for one in distributions()}
    assert json.loads(run_environment()["packages"]) == {name: version for name, version in found.items() if name}
