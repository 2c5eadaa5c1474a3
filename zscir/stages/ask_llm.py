"""ask_llm: each candidate pair becomes one recorded response, an answer or the reason why there is none.

Responses are written shard by shard; a killed run resumes after its last whole shard.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import Field

from zscir.llm.answer import ANSWER_VERSION, EditType
from zscir.llm.backend_protocol import Backend, LlmReply, LlmRequest, error_kind, is_outage, wrap_reply
from zscir.llm.models import LlmModel, OpenAIModel, TemplateModel, TransformersModel
from zscir.llm.open_backend import open_backend
from zscir.llm.prompt import Prompt, load_prompt
from zscir.llm.retry_invalid import answer_all
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError, StageError, TransientError
from zscir.runtime.progress import track
from zscir.runtime.schemas import CANDIDATES_SCHEMA, RESPONSES_SCHEMA, read_table, table_batches, write_table
from zscir.runtime.specs import Spec, canonical_json, json_digest
from zscir.store.artifacts import Artifact, Facts, atomic_path

OUTAGE_SHARE = 0.5  # of a shard without an answer: beyond it the service is down, not these requests odd
REJECTED_ROWS = 10  # a shard of at least so many, all rejected (HTTP 4xx): the settings are wrong, not the requests


class AskSpec(Spec):
    """Which model to ask, and how. ``edit_types``: kinds of edit to request in turn (empty: free). ``resamples``: more
    tries for answers that cannot be read, each with the next seed. A killed run loses at most ``shard_rows`` answers.
    """

    model: LlmModel
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    resamples: Annotated[int, Field(ge=0, le=10)] = 3
    # Left free, a model collapses: Change, Remove or Add open 87 % of the LLM's texts in TransAgg's Laion-CIR.
    edit_types: tuple[EditType, ...] = ()
    shard_rows: Annotated[int, Field(ge=1)] = 1000


@stage(version=1)
def ask_llm(
    spec: AskSpec, candidates: Artifact, out: Path, prompt: Artifact | None = None, weights: Artifact | None = None
) -> Facts:
    """Write ``responses-NNNNN.parquet``, one row per candidate in their order, and ``prompt.md`` where one was read.

    ``prompt``: one Markdown file of rules and demonstrations; ``weights``: the folder of a local model. RequestError
    when something needed is missing; StageError when the service is down (whole shards are kept).
    """
    loaded_prompt = _read_prompt(spec.model, prompt)
    writer = _Writer(spec, loaded_prompt, weights.digest[:16] if weights is not None else None)
    table = candidates.path("candidates.parquet")
    shards = -(-pq.read_metadata(table).num_rows // spec.shard_rows)
    paths = [out / f"responses-{number:05d}.parquet" for number in range(shards)]
    batches = zip(paths, table_batches(table, CANDIDATES_SCHEMA, spec.shard_rows), strict=True)
    backend: Backend | None = None
    for path, batch in track(batches, shards, "ask"):
        if path.exists():
            continue
        # At the first shard that is missing: where all are kept, no service has to be up and no model is loaded.
        backend = backend or open_backend(spec.model, _folder(weights))
        rows = batch.to_pylist()
        requests = [writer.request(row) for row in rows]
        # Requests with the same demonstrations follow each other: servers cache the prompt that they share.
        replies = answer_all(
            backend, sorted(requests, key=lambda request: writer.demonstration_set(request.request_id)), spec.resamples
        )
        # Before the shard is written: a whole shard is final, its failures would never be requested again.
        _refuse_outage(replies, path.name)
        with atomic_path(path) as part:
            write_table(part, RESPONSES_SCHEMA, writer.rows(requests, replies))
    if loaded_prompt is not None and prompt is not None:
        with atomic_path(out / "prompt.md") as part:
            part.write_bytes(prompt.path(prompt.files(".md")[0]).read_bytes())
    return _facts(paths)


class _Writer:
    """Turns candidates into requests and replies into rows."""

    def __init__(self, spec: AskSpec, prompt: Prompt | None, weights_digest: str | None) -> None:
        self.spec, self.prompt, self.weights_digest = spec, prompt, weights_digest
        self.prompt_digest = prompt.digest if prompt else json_digest(["no prompt", ANSWER_VERSION])
        # In every response_id: answers to another prompt or by another model are other responses.
        self.mark = json_digest([spec.literals(), self.prompt_digest, weights_digest])[:12]

    def request(self, row: dict[str, Any]) -> LlmRequest:
        """The request about one candidate; what is drawn depends on (seed, candidate) alone."""
        candidate, types = row["candidate_id"], self.spec.edit_types
        old, new = row["reference_caption"], row["target_caption"]
        kind = types[_draw(self.spec.seed, candidate, "edit type") % len(types)] if types else None
        messages = self.prompt.messages(old, new, kind, self.demonstration_set(candidate)) if self.prompt else ()
        return LlmRequest(candidate, old, new, kind, messages, self.spec.seed)

    def demonstration_set(self, candidate: str) -> int:
        """Which set of demonstrations the request about a candidate shows."""
        sets = len(self.prompt.demonstrations) if self.prompt else 0
        return _draw(self.spec.seed, candidate, "demonstrations") % sets if sets else 0

    def rows(self, requests: list[LlmRequest], replies: list[LlmReply]) -> list[dict[str, Any]]:
        """One row per request, in their order."""
        by_id = {reply.request_id: reply for reply in replies}
        return [self._row(request, by_id[request.request_id]) for request in requests]

    def _row(self, request: LlmRequest, reply: LlmReply) -> dict[str, Any]:
        request_fields = {
            "reference": request.reference_caption,
            "target": request.target_caption,
            "edit_type": request.edit_type,
            "question": request.messages[-1]["content"] if request.messages else None,
            "demonstrations": self.demonstration_set(request.request_id),
            "seed": request.seed,
            "model": self.spec.model.literals(),
        }
        return {
            "response_id": f"{request.request_id}:{self.mark}",
            "prompt_digest": self.prompt_digest,
            "model": self.spec.model.name,
            "model_revision": self.weights_digest or reply.model_revision,
            "request": canonical_json(request_fields),
            "response": wrap_reply(reply),
            "error": reply.error,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "attempts": reply.attempts,
        }


def _draw(seed: int, candidate: str, purpose: str) -> int:
    # By hash, not from one generator: a candidate that is added changes no request about another.
    return int.from_bytes(sha256(f"{seed}\n{purpose}\n{candidate}".encode()).digest()[:8], "big")


def _read_prompt(model: TemplateModel | TransformersModel | OpenAIModel, prompt: Artifact | None) -> Prompt | None:
    if isinstance(model, TemplateModel):
        return None
    if prompt is None or len(prompt.files(".md")) != 1:
        found = prompt.files() if prompt is not None else []
        raise RequestError(
            f"ask_llm with the backend '{model.backend}' needs the input 'prompt' with one .md file (got {found}), "
            'e.g. prompt = "file:../triplets/prompts/pair.md"'
        )
    return load_prompt(prompt.path(prompt.files(".md")[0]))


def _folder(weights: Artifact | None) -> Path | None:
    """The local folder that holds every file of ``weights``."""
    if weights is None:
        return None
    paths = {name: weights.path(name) for name in weights.files()}
    if "config.json" not in paths:
        raise RequestError(f"the input 'weights' holds no config.json; it has {weights.files()[:8]}")
    return paths["config.json"].parent


def _refuse_outage(replies: list[LlmReply], shard: str) -> None:
    """StageError when most of a shard failed for the service's reasons, or the service rejected all of its requests."""
    errors = [reply.error for reply in replies if reply.error is not None]
    down = [reply.error for reply in replies if is_outage(reply)]
    rejected = [error for error in errors if error_kind(error).startswith("http_4")]
    if len(down) > OUTAGE_SHARE * len(replies) or len(rejected) == len(replies) >= REJECTED_ROWS:
        # An outage may pass and is retried; a rejection (HTTP 4xx) comes back however often it is tried.
        kind = TransientError if down else StageError
        raise kind(
            f"{shard}: {len(down) or len(rejected)} of {len(replies)} requests were not answered ({errors[0]}); "
            "whole shards are kept: run again when the service is well, or correct the model's section of the spec"
        )


def _facts(paths: list[Path]) -> Facts:
    """Counts over all shards: answers, and failures by kind."""
    failures: dict[str, int] = {}
    rows = 0
    for path in paths:
        column = read_table(path, RESPONSES_SCHEMA).column("error").to_pylist()
        rows += len(column)
        for error in column:
            if error is not None:
                failures[error_kind(error)] = failures.get(error_kind(error), 0) + 1
    return {"rows": rows, "answered": rows - sum(failures.values()), "failures": dict(sorted(failures.items()))}
