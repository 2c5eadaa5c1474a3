"""infra/venv.sh and browser.sh on made-up machines: what is made, mended and left alone."""

import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from zscir.maintenance.known_conflicts import NEWEST_PYTHON, OLDEST_PYTHON

REPO = Path(__file__).resolve().parents[2]

# Stands for python, .venv/bin/python and uv; ``log`` is where the calls are written down. A kind of Python: good; old,
# of a version that does not do; bare, as Debian's without python3-venv and pip; piped, bare with pip; broken, a shim.
FAKE = """#!/bin/bash
kind={kind}
echo "$(basename "$0") $*" >>"{log}"
case "$kind: $*" in
    broken:*) exit 127 ;;
    old:*assert*|bare:*ensurepip*|piped:*ensurepip*|bare:*" -m "*|piped:*" -m venv"*) exit 1 ;;
esac
case "$(basename "$0") $1 $2" in
    *" -V "*) echo "Python 3.9.2" ;;
    *" -c "*) exit 0 ;;
    *" -m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/made" ;;
    *" -m pip")
        case "$*" in
            *uv==*)
                [ -e "{no_uv}" ] && exit 1
                [ "$4" = --target ] && mkdir -p "$5/bin" && cp "$0" "$5/bin/uv" && exit
                cp "$0" "$(dirname "$0")/uv" ;;
            *uninstall*) rm -rf "$(dirname "$0")"/../lib/python3.11/site-packages/dataclasses-0.6.dist-info ;;
        esac ;;
    "uv venv "*)
        [ -e "{no_network}" ] && echo "error: Failed to download" >&2 && exit 2
        mkdir -p "${{!#}}/bin" && cp "$0" "${{!#}}/bin/python" && sed -i 's/^kind=.*/kind=good/' "${{!#}}/bin/python" ;;
    "uv pip "*)
        [ -e "{slow}" ] && sleep 1
        if [ -e "{killer}" ]; then rm "{killer}"; kill -9 $PPID; sleep 1; exit 1; fi
        mkdir -p "$(dirname "$0")/../lib/python3.11/site-packages/dataclasses-0.6.dist-info" ;;
esac
"""


class Checkout:
    """A checkout with this project's script and tiny project files, and a PATH with made-up Pythons in front."""

    def __init__(self, folder: Path, programs: dict[str, str] | None = None) -> None:
        self.folder, self.log = folder / "checkout", folder / "log"
        self.marks = {name: folder / name for name in ("no_uv", "no_network", "slow", "killer")}
        (self.folder / "infra").mkdir(parents=True)
        shutil.copy(REPO / "infra/venv.sh", self.folder / "infra")
        (self.folder / "pyproject.toml").write_text("[project]\n")
        (self.folder / "constraints.txt").write_text("pip==26.3   # why\nuv==0.13.8\n")
        self.log.touch()
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, kind in (programs or {"python3.11": "good"}).items():
            (self.bin / name).write_text(FAKE.format(kind=kind, log=self.log, **self.marks))
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


@pytest.mark.parametrize("kind", ["broken", "old", "bare"])
def test_a_python_that_does_not_do_is_passed_over(tmp_path: Path, kind: str) -> None:
    checkout = Checkout(tmp_path, {"python3.11": kind, "python3.12": "good", "python3": "good"})
    code, errors = checkout.run()
    assert code == 0
    assert f"making .venv with {checkout.bin}/python3.12" in errors


def test_the_oldest_supported_python_comes_first_unless_one_is_named(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, dict.fromkeys(["python3", "python3.13", "python3.12", "python3.11"], "good"))
    assert f"making .venv with {checkout.bin}/python3.11" in checkout.run()[1]
    shutil.rmtree(checkout.venv)
    assert f"making .venv with {checkout.bin}/python3.13" in checkout.run(PYTHON="python3.13")[1]


def test_without_a_usable_python_nothing_is_left_behind_and_the_message_says_what_to_install(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, {"broken": "broken"})
    code, errors = checkout.run()
    assert code == 1
    assert "nor is there uv, or a Python of any version" in errors
    assert f"needed: Python 3.11 to 3.{NEWEST_PYTHON[1]}" in errors
    assert not checkout.venv.exists()


def test_debians_python_without_venv_is_refused_with_how_to_get_it(tmp_path: Path) -> None:
    code, errors = Checkout(tmp_path, {"python3": "bare"}).run()
    assert code == 1
    assert "python3 is new enough but has no venv (Debian, Ubuntu: apt-get install python3-venv)" in errors


@pytest.mark.parametrize(
    "programs", [{"uv": "good"}, {"uv": "good", "python3": "bare"}, {"uv": "good", "python3": "old"}]
)
def test_where_no_python_does_uv_finds_or_downloads_one(tmp_path: Path, programs: dict[str, str]) -> None:
    checkout = Checkout(tmp_path, programs)
    code, errors = checkout.run()
    assert code == 0, errors
    assert f"{checkout.bin}/uv takes or downloads one" in errors
    assert checkout.calls("uv venv --quiet --seed --allow-existing --python >=3.11,<3.14 .venv") == 1
    assert checkout.calls("uv pip install --quiet --python .venv/bin/python") == 1
    assert checkout.run() == (0, "")


@pytest.mark.parametrize("kind", ["old", "piped"])
def test_a_python_that_does_not_do_can_still_bring_uv(tmp_path: Path, kind: str) -> None:
    checkout = Checkout(tmp_path, {"python3": kind})
    code, errors = checkout.run()
    assert code == 0, errors
    assert checkout.calls("uv venv") == 1
    assert not (checkout.venv / "uv-only").exists()


def test_without_a_network_for_uv_the_message_says_so_and_what_else_can_be_done(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, {"python3": "old"})
    checkout.marks["no_network"].touch()
    code, errors = checkout.run()
    assert code == 1
    assert "uv could neither find nor download one" in errors
    assert "error: Failed to download" in errors
    assert "python3 is Python 3.9.2, which is too old or too new" in errors
    assert "apt-get install python3 python3-venv" in errors
    assert not checkout.venv.exists()


def test_who_names_a_python_gets_that_one_or_an_error(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, {"python3.11": "good", "python3": "old", "uv": "good"})
    code, errors = checkout.run(PYTHON="python3")
    assert code == 1
    assert "no usable Python among: python3\n" in errors
    assert (checkout.calls("uv venv"), checkout.calls("-m venv")) == (0, 0)


def test_the_set_up_the_package_and_the_doctor_agree_on_the_pythons() -> None:
    script = (REPO / "infra/venv.sh").read_text()
    assert f"assert {OLDEST_PYTHON} <= sys.version_info[:2] <= {NEWEST_PYTHON}" in script
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">=3.{OLDEST_PYTHON[1]},<3.{NEWEST_PYTHON[1] + 1}"
    classified = [line.rpartition(" ")[2] for line in project["classifiers"] if "Language" in line]
    assert classified == [f"3.{minor}" for minor in range(OLDEST_PYTHON[1], NEWEST_PYTHON[1] + 1)]


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


def test_a_browser_that_cannot_be_installed_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    code, errors = run_browser(tmp_path, "echo E: no network; exit 100")
    assert code == 0
    assert "will be skipped" in errors
    assert "E: no network" in errors


@pytest.mark.parametrize(("apt", "user"), [("", 0), ("exit 0", 1000)])
def test_a_machine_that_is_not_ours_to_change_is_left_alone(tmp_path: Path, apt: str, user: int) -> None:
    code, errors = run_browser(tmp_path, apt, user)
    assert code == 0
    assert "takes root and apt-get" in errors
