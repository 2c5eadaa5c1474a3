"""The job server's stand-ins for parts of img2dataset must do what those do; the rest is img2dataset itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.data.download.img2dataset_job_servers import fake_img2dataset
from tests.faults.hostile_images import deep_png, picture, rotated_jpeg, saved
from tests.faults.hostile_server import HostileServer
from zscir.data.download.img2dataset_process import GATEWAY_CONNECTION, download_from_gateway

REPO = Path(__file__).parents[3]
COMPARISON = """
import json, sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zscir.data.download import img2dataset_process
sys.modules.update(img2dataset_process.STUBBED_MODULES)
import img2dataset.downloader
from img2dataset.resizer import Resizer

MODES = ["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"]
images = [Path(path).read_bytes() for path in sys.argv[2:]]
urls = json.loads(sys.argv[1])

def pixels():
    for mode in MODES:
        for only_if_bigger in (True, False):
            resizer = Resizer(40, mode, only_if_bigger, encode_quality=90)
            for image in images * 2:  # the second time with what is kept of the first
                stored, *rest = resizer(BytesIO(image))
                yield mode, stored and sha256(stored).hexdigest(), rest

def bodies():
    for number, url in enumerate(urls):
        key, stream, error = img2dataset.downloader.download_image((number, url), 10, None, None)
        yield key, stream and sha256(stream.getvalue()).hexdigest(), error is None

plain = [*pixels(), *bodies()]
img2dataset_process.load_img2dataset()
assert img2dataset.downloader.download_image is img2dataset_process.download_from_gateway
quick = [*pixels(), *bodies()]
assert plain == quick, (plain, quick)
print(len(quick))
"""


def test_pixels_and_bodies_are_those_of_img2dataset_itself(tmp_path: Path) -> None:
    images = [saved(picture(1, 90, 60), "JPEG"), saved(picture(2, 30, 70), "JPEG"), rotated_jpeg(), deep_png(), b"none"]
    paths = [tmp_path / f"{number}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    with HostileServer() as server:
        urls = [server.url(path) for path in ("/ok/1.jpg", "/ok/2.jpg", "/status/404", "/truncated/1.jpg", "/garbage")]
        urls.append("http://127.0.0.1:1/nobody-is-here")
        command = [sys.executable, "-c", COMPARISON, json.dumps(urls), *map(str, paths)]
        env = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
        done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{5 * 2 * 5 * 2 + 6}\n"), done.stderr


@pytest.fixture
def line() -> Iterator[None]:
    """The connection of this thread, closed in the end."""
    yield
    GATEWAY_CONNECTION.close()


@contextmanager
def answering(*connections: list[bytes]) -> Iterator[tuple[str, list[int]]]:
    """A server that gives, on each of so many connections, these answers to as many requests, and then closes it.

    It counts the requests on each connection.
    """
    counts: list[int] = []

    def serve(listener: socket.socket) -> None:
        for answers in connections:
            connection, _ = listener.accept()
            counts.append(0)
            with connection, connection.makefile("rb") as requests:
                for answer in answers:
                    while requests.readline() != b"\r\n":
                        pass
                    counts[-1] += 1
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/key", counts
        thread.join(20)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
FAILED = b"HTTP/1.1 424 http_404\r\nContent-Length: 0\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nabc"


def outcome(url: str) -> object:
    number, stream, error = download_from_gateway((7, url))
    assert number == 7
    return error if stream is None else stream.getvalue()


@pytest.mark.usefixtures("line")
def test_a_connection_to_the_gateway_stays() -> None:
    with answering([OK, FAILED, OK]) as (url, counts):
        assert [outcome(url) for _ in range(3)] == [b"abc", "424 http_404", b"abc"]
    assert counts == [3]


@pytest.mark.usefixtures("line")
def test_a_connection_that_the_gateway_has_closed_is_opened_again() -> None:
    with answering([OK], [OK, OK]) as (url, counts):
        assert [outcome(url) for _ in range(3)] == [b"abc"] * 3
    assert counts == [1, 2]


@pytest.mark.usefixtures("line")
@pytest.mark.parametrize("answer", [HALF, b"what?\r\n\r\n", b""], ids=["half", "no HTTP", "nothing"])
def test_a_broken_answer_is_an_error_and_the_next_request_gets_a_new_connection(answer: bytes) -> None:
    with answering([answer], [OK]) as (url, counts):
        assert outcome(url) in ("IncompleteRead(3 bytes read, 297 more expected)", "what?\r\n",
                                "Remote end closed connection without response")  # fmt: skip
        assert outcome(url) == b"abc"
    assert counts == [1, 1]


SPAWNING = """
import os, sys
from functools import partial
from zscir.data.download.img2dataset_process import run_spawned
from zscir.data.download.job_protocol import reserve_stdout, serve_jobs
lifeline, _ = os.pipe()
serve_jobs(partial(run_spawned, lifeline), reserve_stdout())
"""
TALKER = "def download(words): print(words)\n"
SLEEPER = "def download(**_):\n    import time\n    print('began', flush=True)\n    time.sleep(600)\n"


def test_where_a_fork_is_not_safe_each_job_imports_anew(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(fake_img2dataset(tmp_path, TALKER))}
    ask = {"start": 1, "log": str(tmp_path / "log"), "arguments": {"words": "well done"}}
    with subprocess.Popen([sys.executable, "-c", SPAWNING], cwd=REPO, env=env, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(ask).encode() + b"\n")
        server.stdin.flush()
        assert set(json.loads(server.stdout.readline())) == {"job", "pid"}
        assert json.loads(server.stdout.readline()) == {"job": 1, "exit": 0}
    assert (tmp_path / "log").read_text() == "well done\n"


def test_a_job_ends_with_the_pipe_that_its_job_server_holds(tmp_path: Path) -> None:
    """The kernel's signal does the same on Linux; elsewhere there is none."""
    env = os.environ | {"PYTHONPATH": str(fake_img2dataset(tmp_path, SLEEPER))}
    command = [sys.executable, "-m", "zscir.data.download.img2dataset_process", str(os.getpid()), "{}"]
    with subprocess.Popen(command, cwd=REPO, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          start_new_session=True) as job:  # fmt: skip
        assert job.stdin is not None
        assert job.stdout is not None
        assert job.stdout.readline() == b"began\n"
        job.stdin.close()
        assert job.wait(20) == -signal.SIGTERM


def test_a_job_server_does_not_start_for_a_parent_that_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zscir.data.download.img2dataset_process", "1234567"], cwd=REPO, check=False
    )
    assert done.returncode == 1
