"""infra/fresh_test.sh on made-up machines: when it is skipped, what it copies, and what a kill or a failure leaves."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

REPO = Path(__file__).resolve().parents[2]

# Programs that need a real machine, root or a network. The namespaces of the made-up machine hold nothing in.
FAKES = {
    "id": 'echo "${FAKE_USER:-0}"',
    "uname": "echo Linux",
    "hostname": "echo fresh",
    "apt-get": 'echo "apt-get $*" >>"$LOG"; exit 100',
    "setpriv": 'shift 2; exec "$@"',
    "unshare": '[ -e "$MARKS/no_namespaces" ] && exit 1; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "mount": 'echo "mount $*" >>"$LOG"',
    "debootstrap": """echo "debootstrap $*" >>"$LOG"
for one in "$@"; do case "$one" in */*.part) root="$one" ;; esac; done
mkdir -p "$root"/{etc/apt/apt.conf.d,root,usr/bin}; echo 13.8 >"$root/etc/debian_version"
[ -e "$MARKS/slow" ] && sleep 60
[ -e "$MARKS/no_mirror" ] && echo "E: Failed getting release file" && exit 1
[ -e "$MARKS/broken" ] && echo "E: Invalid Release signature" && exit 1
exit 0""",
    "chroot": """shift 3; : >"$MARKS/environment"   # chroot SYSTEM env -i
while [[ "$1" == *=* ]]; do echo "$1" >>"$MARKS/environment"; shift; done
echo "chroot $*" >>"$LOG"
[ "$*" = "python3 -V" ] && echo Python 3.13.5
[ -e "$MARKS/no_demo" ] && case "$*" in *"make demo") exit 2 ;; esac
exit 0""",
}
REAL = [
    "bash", "cat", "chmod", "cp", "cut", "dirname", "env", "flock", "git", "grep", "ls",
    "mkdir", "mv", "realpath", "rm", "sed", "sha256sum", "sleep", "sort", "tail", "tar", "touch", "true",
]  # fmt: skip


class Machine:
    """A checkout that git knows, and a PATH of made-up programs and of the real ones that need nothing."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.marks, self.bin, self.log = (folder / name for name in ("checkout", "marks", "bin", "log"))
        for one in (self.checkout / "infra", self.marks, self.bin, folder / "home"):
            one.mkdir(parents=True)
        self.log.touch()
        shutil.copy(REPO / "infra/fresh_test.sh", self.checkout / "infra")
        for name, text in FAKES.items():
            (self.bin / name).write_text(f"#!/bin/bash\n{text}\n")
            (self.bin / name).chmod(0o755)
        for name in REAL:
            found = shutil.which(name)
            if found is None:
                pytest.skip(f"no {name} on this machine")
            (self.bin / name).symlink_to(found)
        self.environment = {
            "PATH": str(self.bin), "HOME": str(folder / "home"), "LOG": str(self.log), "MARKS": str(self.marks),
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
        }  # fmt: skip
        (self.checkout / ".gitignore").write_text(".fresh-test/\nignored\n")
        for name in ("tracked", "deleted", "ignored"):
            (self.checkout / name).write_text(name)
        self.git("init", "--quiet")
        self.git("add", ".")
        (self.checkout / "deleted").unlink()
        (self.checkout / "new file").write_text("not yet added")

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.checkout, check=True, env=self.environment)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["infra/fresh_test.sh"], cwd=self.checkout, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *marks: str, **environment: str) -> tuple[int, str]:
        for mark in marks:
            (self.marks / mark).touch()
        process = self.start(**environment)
        output, _ = process.communicate(timeout=60)
        for mark in marks:
            (self.marks / mark).unlink()
        return process.returncode, output

    def calls(self, words: str) -> int:
        return sum(words in line for line in self.log.read_text().splitlines())

    @property
    def folder(self) -> Path:
        return self.checkout / ".fresh-test"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_both_commands_run_in_a_fresh_system_that_is_then_discarded(machine: Machine) -> None:
    code, output = machine.run()
    assert code == 0, output
    assert "fresh-test: Debian 13.8, Python 3.13.5\n" in output
    assert "fresh-test: what the README says works on a fresh machine\n" in output
    steps = [line.rpartition(" bash ")[2] for line in machine.log.read_text().splitlines() if "chroot bash" in line]
    assert steps == ["make demo", "make test"]
    assert machine.calls("apt-get install -y -qq --no-install-recommends python3 python3-venv make git") == 1
    assert not (machine.folder / "run").exists()


def test_the_system_is_built_once_and_each_run_gets_a_copy(machine: Machine) -> None:
    machine.run()
    code, output = machine.run()
    assert (code, machine.calls("debootstrap ")) == (0, 1), output
    assert (machine.run(FRESH_SUITE="testing")[0], machine.calls("debootstrap ")) == (0, 2)


def test_the_tests_can_be_some_or_none(machine: Machine) -> None:
    machine.run(FRESH_TESTS="tests/stages -x")
    assert machine.calls("make test ARGS=tests/stages -x") == 1
    machine.run(FRESH_TESTS="none")
    assert (machine.calls("make demo"), machine.calls("make test")) == (2, 1)


def test_the_copy_is_the_work_tree_without_what_git_ignores(machine: Machine) -> None:
    code, output = machine.run("no_demo")
    assert code == 1
    assert "FAILED after" in output
    copy = machine.folder / "run/root/zscir"
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert files == {".gitignore", "tracked", "new file", "infra/fresh_test.sh"}
    assert machine.calls("make test") == 0


def test_the_system_knows_how_to_reach_registries_and_nothing_else_of_the_machine(machine: Machine) -> None:
    wheels = machine.checkout.parent / "wheels"
    index = machine.checkout.parent / "index/simple"
    for one in (wheels, index):
        one.mkdir(parents=True)
    configuration = machine.checkout.parent / "home/.config/pip"
    configuration.mkdir(parents=True)
    (configuration / "pip.conf").write_text(
        f"[global]\nextra-index-url = file://{index} https://index.example/simple\n"
    )
    code, output = machine.run(
        PIP_FIND_LINKS=str(wheels), AWS_SECRET_ACCESS_KEY="hunter2", https_proxy="http://127.0.0.1:9"
    )
    assert code == 0, output
    environment = (machine.marks / "environment").read_text().splitlines()
    assert {f"PIP_FIND_LINKS={wheels}", "https_proxy=http://127.0.0.1:9", "HOME=/root"} <= set(environment)
    assert [line for line in environment if "hunter2" in line or line.startswith("FAKE")] == []
    run = machine.folder / "run"
    for source, target in {wheels: wheels, index.parent: index.parent, configuration: "/root/.config/pip"}.items():
        assert machine.calls(f"mount --bind -o ro {source} {run}{target}") == 1


@pytest.mark.parametrize(
    ("mark", "missing", "user", "reason"),
    [
        ("", "", 1000, "takes root"),
        ("", "debootstrap", 0, "apt-get could not install it"),
        ("", "debootstrap apt-get", 0, "no apt-get to install it with"),
        ("no_namespaces", "", 0, "allows no namespaces"),
        ("no_mirror", "", 0, "Debian's mirror could not be reached"),
    ],
)
def test_a_machine_that_cannot_do_it_skips_with_a_reason(
    machine: Machine, mark: str, missing: str, user: int, reason: str
) -> None:
    for name in missing.split():
        (machine.bin / name).unlink()
    code, output = machine.run(*filter(None, [mark]), FAKE_USER=str(user))
    assert code == 0
    assert "fresh-test: skipped: " in output
    assert reason in output
    assert machine.calls("make demo") == 0


def test_a_system_that_cannot_be_built_is_a_failure(machine: Machine) -> None:
    code, output = machine.run("broken")
    assert code == 1
    assert "E: Invalid Release signature" in output
    assert machine.run()[0] == 0


def test_a_system_left_half_built_by_a_kill_is_thrown_away(machine: Machine) -> None:
    (machine.marks / "slow").touch()
    process = machine.start()
    while not list(machine.folder.glob("*.part/etc/debian_version")):
        assert process.poll() is None
        time.sleep(0.05)
    for one in psutil.Process(process.pid).children(recursive=True):  # real namespaces would end with the script
        one.kill()
    process.kill()
    process.communicate()
    (machine.marks / "slow").unlink()
    (half,) = machine.folder.glob("*.part")
    (half / "half-written").touch()
    code, output = machine.run()
    assert code == 0, output
    (base,) = machine.folder.glob("trixie-*")
    assert not (base / "half-written").exists()
