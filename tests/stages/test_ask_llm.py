import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from zscir.llm.backend_protocol import unwrap_reply
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.schemas import CANDIDATES_SCHEMA, RESPONSES_SCHEMA, read_rows, read_table, table_writer, write_table
from zscir.runtime.settings import data_specs
from zscir.stages.ask_llm import AskSpec, ask_llm
from zscir.store.artifacts import Artifact

PROMPT = data_specs() / "triplets" / "prompts" / "pair.md"
TEMPLATE = {"model": {"backend": "template"}}
OPENAI = {"model": {"backend": "openai", "name": "tiny"}, "resamples": 0, "shard_rows": 4}
COLOURS = ("red", "green", "blue", "pink", "black")


def candidates(folder: Path, count: int) -> Artifact:
    folder.mkdir()
    rows = [
        {
            "candidate_id": f"c{number:07d}", "reference_key": f"r{number}", "target_key": f"t{number}",
            "reference_caption": f"a {COLOURS[number % 5]} cube and a ring on sand",
            "target_caption": f"a {COLOURS[number % 4]} cube and a ring on {'grass' if number % 3 else 'sand'}",
            "image_similarity": 0.8, "text_similarity": 0.7,
        }
        for number in range(count)
    ]  # fmt: skip
    write_table(folder / "candidates.parquet", CANDIDATES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def answers(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("responses-*.parquet")) for row in read_rows(path, RESPONSES_SCHEMA)]


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_every_candidate_gets_one_response_in_its_order(tmp_path: Path) -> None:
    given = candidates(tmp_path / "in", 25)
    (tmp_path / "out").mkdir()
    facts = ask_llm(AskSpec.parse({**TEMPLATE, "shard_rows": 10}, "t"), candidates=given, out=tmp_path / "out")
    assert facts == {"rows": 25, "answered": 25, "failures": {}}
    assert sorted(bytes_of(tmp_path / "out")) == [f"responses-0000{n}.parquet" for n in range(3)]
    rows = answers(tmp_path / "out")
    assert [row["response_id"].partition(":")[0] for row in rows] == [f"c{n:07d}" for n in range(25)]
    assert len({row["response_id"] for row in rows}) == 25
    first = rows[1]
    assert json.loads(first["request"])["reference"] == "a green cube and a ring on sand"
    assert json.loads(unwrap_reply(first["response"]))["changed"] == ["on sand -> on grass"]
    assert (first["model"], first["error"], first["attempts"]) == ("template", None, 1)


def test_no_candidates_give_no_shards(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    facts = ask_llm(AskSpec.parse(TEMPLATE, "t"), candidates=candidates(tmp_path / "in", 0), out=tmp_path / "out")
    assert facts == {"rows": 0, "answered": 0, "failures": {}}


def test_shards_do_not_follow_the_row_groups_of_the_candidates(tmp_path: Path) -> None:
    table = read_table(candidates(tmp_path / "in", 25).path("candidates.parquet"), CANDIDATES_SCHEMA)
    with table_writer(tmp_path / "in" / "candidates.parquet", CANDIDATES_SCHEMA) as writer:
        for first in range(0, 25, 7):
            writer.write_table(table.slice(first, 7))
    (tmp_path / "out").mkdir()
    given = Artifact.of_folder(tmp_path / "in")
    ask_llm(AskSpec.parse({**TEMPLATE, "shard_rows": 10}, "t"), candidates=given, out=tmp_path / "out")
    sizes = [len(read_rows(path, RESPONSES_SCHEMA)) for path in sorted((tmp_path / "out").iterdir())]
    assert sizes == [10, 10, 5]


def test_two_runs_give_the_same_bytes_and_another_seed_other_words(tmp_path: Path) -> None:
    given = candidates(tmp_path / "in", 40)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        ask_llm(AskSpec.parse({**TEMPLATE, "seed": seed}, "t"), candidates=given, out=tmp_path / name)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    said = [[row["response"] for row in answers(tmp_path / name)] for name in "ac"]
    assert said[0] != said[1]


# The same stage, only slower, so that the kill comes in the middle.
KILLED = """
import sys, time
from pathlib import Path
from zscir.llm import template
from zscir.store.artifacts import Artifact
from zscir.stages.ask_llm import AskSpec, ask_llm
describe = template.describe_change
template.describe_change = lambda *arguments: time.sleep(0.005) or describe(*arguments)
spec = AskSpec.parse({"model": {"backend": "template"}, "shard_rows": 40}, "t")
ask_llm(spec, candidates=Artifact.of_folder(sys.argv[1]), out=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("shards", [1, 4])
def test_a_killed_run_goes_on_after_its_last_whole_shard(tmp_path: Path, shards: int) -> None:
    given = candidates(tmp_path / "in", 1600)
    spec = AskSpec.parse({**TEMPLATE, "shard_rows": 40}, "t")
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "in"), str(tmp_path / "killed")])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*.parquet"))) < shards and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.parquet")}
    assert shards <= len(kept) < 40
    facts = ask_llm(spec, candidates=given, out=tmp_path / "killed")
    ask_llm(spec, candidates=given, out=tmp_path / "whole")
    for path in (tmp_path / "killed").glob("*.part"):
        path.unlink()
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept} == kept
    assert facts["rows"] == 1600


class Service:
    """A chat service on loopback: ``status`` decides what it answers; every body is kept."""

    def __init__(self) -> None:
        self.status = 200
        self.content = "{}"
        self.bodies: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                body = json.dumps(
                    {"choices": [{"message": {"content": service.content}, "finish_reason": "stop"}]}
                ).encode()
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    one = Service()
    monkeypatch.setenv("ZSCIR_LLM_BASE_URL", f"http://127.0.0.1:{one.server.server_port}/v1")
    monkeypatch.setenv("ZSCIR_LLM_API_KEY", "sk-secret-key")
    monkeypatch.setenv("ZSCIR_LLM_ATTEMPTS", "2")
    monkeypatch.setenv("ZSCIR_LLM_FIRST_WAIT_S", "0.01")
    one.thread.start()
    yield one
    one.server.shutdown()
    one.thread.join()
    one.server.server_close()


def ask_service(folder: Path, given: Artifact, **fields: Any) -> dict[str, Any]:
    (folder / "out").mkdir(exist_ok=True)
    prompt = Artifact.of_folder(PROMPT)
    return ask_llm(AskSpec.parse(OPENAI | fields, "t"), candidates=given, out=folder / "out", prompt=prompt)


def test_a_service_gets_the_prompt_and_unreadable_answers_are_rows(tmp_path: Path, service: Service) -> None:
    service.content = "I am sorry, <b>Dave</b>"
    facts = ask_service(tmp_path, candidates(tmp_path / "in", 6), resamples=1)
    assert facts == {"rows": 6, "answered": 0, "failures": {"invalid_answer": 6}}
    rows = answers(tmp_path / "out")
    assert {row["attempts"] for row in rows} == {2}
    assert unwrap_reply(rows[0]["response"]) == "I am sorry, <b>Dave</b>"
    assert len(service.bodies) == 12
    assert (tmp_path / "out" / "prompt.md").read_bytes() == PROMPT.read_bytes()
    everything = b"".join(bytes_of(tmp_path / "out").values()) + json.dumps([facts, rows]).encode()
    assert b"sk-secret-key" not in everything
    assert b"127.0.0.1" not in everything


def test_kinds_of_edit_are_drawn_and_put_into_the_prompt(tmp_path: Path, service: Service) -> None:
    ask_service(tmp_path, candidates(tmp_path / "in", 30), edit_types=["addition", "negation"])
    kinds = {json.loads(row["request"])["edit_type"] for row in answers(tmp_path / "out")}
    assert kinds == {"addition", "negation"}
    in_prompts = {body["messages"][-1]["content"].rpartition("edit: ")[2] for body in service.bodies}
    assert in_prompts == kinds


def test_an_outage_stops_the_stage_and_the_next_attempt_goes_on_from_there(tmp_path: Path, service: Service) -> None:
    given = candidates(tmp_path / "in", 8)
    service.status = 503
    with pytest.raises(StageError, match=r"4 of 4 requests were not answered \(http_503"):
        ask_service(tmp_path, given)
    assert answers(tmp_path / "out") == []
    service.status = 200
    assert ask_service(tmp_path, given)["rows"] == 8


def test_a_wrong_key_is_a_request_error_and_leaves_nothing(tmp_path: Path, service: Service) -> None:
    service.status = 401
    with pytest.raises(RequestError, match="the key was not accepted"):
        ask_service(tmp_path, candidates(tmp_path / "in", 4))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_service_that_rejects_every_request_stops_the_stage(tmp_path: Path, service: Service) -> None:
    service.status = 422
    with pytest.raises(StageError, match="12 of 12 requests"):
        ask_service(tmp_path, candidates(tmp_path / "in", 12), shard_rows=100)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    given = candidates(tmp_path / "in", 1)
    with pytest.raises(RequestError, match=r"needs the input 'prompt' with one \.md file"):
        ask_llm(AskSpec.parse(OPENAI, "t"), candidates=given, out=tmp_path)
    assert "ZSCIR_LLM_BASE_URL" not in os.environ
    with pytest.raises(RequestError, match="ZSCIR_LLM_BASE_URL is not set"):
        ask_service(tmp_path, given)
    with pytest.raises(RequestError, match=r"holds no config\.json"):
        ask_llm(AskSpec.parse(TEMPLATE, "t"), candidates=given, out=tmp_path / "out", weights=given)


def test_an_unknown_field_of_a_model_is_an_error() -> None:
    with pytest.raises(RequestError, match="temperature"):
        AskSpec.parse({"model": {"backend": "template", "temperature": 0.5}}, "t")
    with pytest.raises(RequestError, match="backend"):
        AskSpec.parse({"model": {"backend": "oracle"}}, "t")


@pytest.mark.parametrize("name", ["template", "local_llm", "openai"])
def test_the_shipped_specs_load(name: str) -> None:
    assert AskSpec.load(data_specs() / "triplets" / f"{name}.toml").seed == 0
