"""infra/venv.sh and browser.sh on made-up machines: what is made, mended and left alone."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# Stands for python, .venv/bin/python and .venv/bin/uv; ``log`` is where the calls are written down.
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >>"{log}"
case "$(basename "$0") $1 $2" in
    "python3.13 "*|"broken "*) exit 1 ;;
    *" -c "*) exit 0 ;;
    *" -m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/made" ;;
    *" -m pip")
        case "$*" in
            *uv==*) [ -e "{no_uv}" ] && exit 1; cp "$0" "$(dirname "$0")/uv" ;;
            *uninstall*) rm -rf "$(dirname "$0")"/../lib/python3.11/site-packages/dataclasses-0.6.dist-info ;;
        esac ;;
    "uv pip "*)
        [ -e "{slow}" ] && sleep 1
        if [ -e "{killer}" ]; then rm "{killer}"; kill -9 $PPID; sleep 1; exit 1; fi
        mkdir -p "$(dirname "$0")/../lib/python3.11/site-packages/dataclasses-0.6.dist-info" ;;
esac
"""


class Checkout:
    """A checkout with this project's script and tiny project files, and a PATH with made-up Pythons in front."""

    def __init__(self, folder: Path, pythons: tuple[str, ...] = ("python3.11",)) -> None:
        self.folder, self.log = folder / "checkout", folder / "log"
        self.marks = {name: folder / name for name in ("no_uv", "slow", "killer")}
        (self.folder / "infra").mkdir(parents=True)
        shutil.copy(REPO / "infra/venv.sh", self.folder / "infra")
        (self.folder / "pyproject.toml").write_text("[project]\n")
        (self.folder / "constraints.txt").write_text("pip==26.3   # why\nuv==0.13.8\n")
        self.log.touch()
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in pythons:
            (self.bin / name).write_text(FAKE.format(log=self.log, **self.marks))
            (self.bin / name).chmod(0o755)
        for name in (
            "bash",
            "cat",
            "sed",
            "mkdir",
            "rm",
            "mv",
            "touch",
            "dirname",
            "basename",
            "cp",
            "sleep",
            "flock",
            "env",
        ):
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["infra/venv.sh"], cwd=self.folder, env={"PATH": str(self.bin), **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        _, errors = process.communicate()
        return process.returncode, errors

    def calls(self, words: str) -> int:
        return sum(words in line for line in self.log.read_text().splitlines())

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_fresh_checkout_gets_an_environment_with_the_pinned_versions_and_without_the_backport(
    checkout: Checkout,
) -> None:
    code, errors = checkout.run()
    assert code == 0, errors
    assert checkout.calls("install uv==0.13.8") == 1
    assert checkout.calls("uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[test,dev]") == 1
    assert checkout.calls("uninstall --yes dataclasses") == 1
    assert not (checkout.venv / ".zscir-making").exists()


def test_where_python_keeps_no_bytecode_the_installation_does(checkout: Checkout) -> None:
    checkout.run(PYTHONDONTWRITEBYTECODE="1")
    assert checkout.calls("uv pip install --quiet --compile-bytecode --python .venv/bin/python") == 1


def test_a_second_run_does_nothing(checkout: Checkout) -> None:
    checkout.run()
    before = checkout.calls("")
    assert checkout.run() == (0, "")
    assert checkout.calls("") == before + 1  # one look whether the Python still starts


def test_changed_pins_are_installed_into_the_same_environment(checkout: Checkout) -> None:
    checkout.run()
    with (checkout.folder / "constraints.txt").open("a") as stream:
        stream.write("zzz==1\n")
    assert checkout.run()[0] == 0
    assert (checkout.calls("-m venv"), checkout.calls("uv pip install")) == (1, 2)


def test_an_installation_killed_half_way_is_thrown_away_and_made_again(checkout: Checkout) -> None:
    checkout.marks["killer"].touch()
    assert checkout.run()[0] == -9
    (checkout.venv / "half-written").touch()
    code, errors = checkout.run()
    assert code == 0
    assert "left half-made; starting again" in errors
    assert not (checkout.venv / "half-written").exists()
    assert checkout.calls("-m venv") == 2
    assert checkout.run() == (0, "")


def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.run()
    (checkout.venv / "bin/python").unlink()
    code, errors = checkout.run()
    assert code == 0
    assert "is gone" in errors
    assert checkout.calls("-m venv") == 2


def test_an_environment_made_by_hand_is_used_and_not_deleted(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    shutil.copy(checkout.bin / "python3.11", checkout.venv / "bin/python")
    (checkout.venv / "mine").touch()
    assert checkout.run()[0] == 0
    assert (checkout.venv / "mine").exists()
    assert checkout.calls("-m venv") == 0


def test_without_uv_pip_installs(checkout: Checkout) -> None:
    checkout.marks["no_uv"].touch()
    code, errors = checkout.run()
    assert code == 0
    assert "with pip instead" in errors
    assert checkout.calls("install pip==26.3") == 1
    assert checkout.calls("install -c constraints.txt -e .[test,dev]") == 1


def test_a_python_that_does_not_do_is_passed_over(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, pythons=("python3.12", "python3"))
    (checkout.bin / "python3.11").write_text("#!/bin/bash\nexit 127\n")
    (checkout.bin / "python3.11").chmod(0o755)
    code, errors = checkout.run()
    assert code == 0
    assert "python3.12" in errors


def test_without_a_usable_python_nothing_is_left_behind_and_the_message_says_what_to_install(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, pythons=("broken",))
    code, errors = checkout.run(PYTHON="broken")
    assert code == 1
    assert "needed: Python 3.11 or 3.12" in errors
    assert not checkout.venv.exists()


def test_two_at_once_make_one_environment(checkout: Checkout) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock on this machine")
    checkout.marks["slow"].touch()
    first = checkout.start()
    time.sleep(0.3)
    second = checkout.start()
    assert [first.wait(), second.wait()] == [0, 0]
    assert checkout.calls("-m venv") == 1
    for process in (first, second):
        process.communicate()


def run_browser(folder: Path, apt: str, user: int = 0) -> tuple[int, str]:
    """infra/browser.sh on a machine without a browser, with this apt-get and this user's number."""
    for name, text in {"apt-get": apt, "id": f"echo {user}"}.items():
        if text:
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
    for name in ("bash", "sh", "env", "mktemp", "timeout", "tail", "rm", "touch", "chmod"):
        (folder / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [REPO / "infra/browser.sh"], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_a_machine_without_a_browser_gets_one(tmp_path: Path) -> None:
    install = f'[ "$1" = update ] || {{ echo "#!/bin/bash" >{tmp_path}/chromium; chmod 755 {tmp_path}/chromium; }}'
    assert run_browser(tmp_path, install)[0] == 0
    assert (tmp_path / "chromium").exists()


def test_a_browser_that_cannot_be_installed_is_told_and_stops_nothing(tmp_path: Path) -> None:
    code, errors = run_browser(tmp_path, "echo E: no network; exit 100")
    assert code == 0
    assert "will be skipped" in errors
    assert "E: no network" in errors


@pytest.mark.parametrize(("apt", "user"), [("", 0), ("exit 0", 1000)])
def test_a_machine_that_is_not_ours_to_change_is_left_alone(tmp_path: Path, apt: str, user: int) -> None:
    code, errors = run_browser(tmp_path, apt, user)
    assert code == 0
    assert "takes root and apt-get" in errors
