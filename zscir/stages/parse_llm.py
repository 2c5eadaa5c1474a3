"""parse_llm: recorded responses become triplets, and everything that is not good enough a reject with a reason."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from zscir.llm.answer import Answer, AnswerError, read_answer
from zscir.llm.backend_protocol import error_kind, unwrap_reply
from zscir.llm.filters import ParseTally, instruction_reject_reason, normalise_instruction
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import track
from zscir.runtime.schemas import (
    CANDIDATES_SCHEMA,
    REJECTS_SCHEMA,
    RESPONSES_SCHEMA,
    TRIPLETS_SCHEMA,
    checked_table,
    read_table,
    table_batches,
    table_writer,
)
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

PARSE_BATCH_ROWS = 5_000
_Row = dict[str, Any]


class ParseSpec(Spec):
    """What a good instruction is. ``per_pair``: how many instructions of an answer become triplets. ``max_uses``: how
    many triplets may have the same text. ``max_type_share``: largest share of one kind of edit, so that no kind drowns
    the others. ``min_direction``: smallest cosine between the step from caption to caption
    and the step from image to image; needs the input ``embed``.
    """

    per_pair: Annotated[int, Field(ge=1, le=3)] = 1
    # The prompt asks for 3 to 20 words; the texts of Laion-CIR have a median of 8.
    min_words: Annotated[int, Field(ge=1)] = 3
    max_words: Annotated[int, Field(ge=1)] = 20
    # Of Laion-CIR's LLM texts 18 % are repeats, of its template texts 32 %.
    max_uses: Annotated[int, Field(ge=1)] = 5
    max_type_share: Annotated[float, Field(gt=0, le=1)] | None = None
    min_direction: Annotated[float, Field(ge=-1, le=1)] | None = None


@stage(version=1)
def parse_llm(
    spec: ParseSpec, candidates: Artifact, responses: Artifact, out: Path, embed: Artifact | None = None
) -> Facts:
    """Write ``triplets.parquet`` and ``rejects.parquet``, both in the order of the responses."""
    parser = _Parser(spec, _Pairs(candidates), _directions(spec, embed))
    names = [name for name in responses.files(".parquet") if name.startswith("responses")]
    total = sum(pq.ParquetFile(responses.path(name)).metadata.num_rows for name in names)
    batches = (
        batch for name in names for batch in table_batches(responses.path(name), RESPONSES_SCHEMA, PARSE_BATCH_ROWS)
    )
    with (
        atomic_path(out / "triplets.parquet") as kept,
        atomic_path(out / "rejects.parquet") as dropped,
        table_writer(kept, TRIPLETS_SCHEMA) as triplets,
        table_writer(dropped, REJECTS_SCHEMA) as rejects,
    ):
        for batch in track(batches, -(-total // PARSE_BATCH_ROWS), "parse"):
            made, refused = parser.parse(batch.to_pylist())
            triplets.write_table(checked_table(made, TRIPLETS_SCHEMA))
            rejects.write_table(checked_table(refused, REJECTS_SCHEMA))
    return {"responses": total, **parser.tally.facts()}


class _Pairs:
    """The candidates by id, as an Arrow table and a dictionary of row numbers."""

    def __init__(self, candidates: Artifact) -> None:
        self.table = read_table(candidates.path("candidates.parquet"), CANDIDATES_SCHEMA)
        self.number = {name: row for row, name in enumerate(self.table.column("candidate_id").to_pylist())}

    def of(self, responses: list[_Row]) -> Iterator[tuple[_Row, _Row]]:
        """(response, its candidate); RequestError when a response belongs to other candidates."""
        # CANDIDATE:MARK, as ask_llm writes it; the mark is hexadecimal, so the last colon parts them.
        names = [row["response_id"].rpartition(":")[0] for row in responses]
        unknown = [name for name in names if name not in self.number]
        if unknown:
            raise RequestError(
                f"response of candidate {unknown[0]!r}: no such candidate; the inputs do not belong together"
            )
        yield from zip(responses, self.table.take([self.number[name] for name in names]).to_pylist(), strict=True)


class _Directions:
    """Cosine of (target text - reference text) and (target image - reference image) in the space of ``embed``."""

    def __init__(self, embed: Artifact) -> None:
        keys = pq.read_table(embed.path("keys.parquet"), columns=["image_key"]).column(0).to_pylist()
        self.number = {key: row for row, key in enumerate(keys)}
        # Mapped, not read: the vectors of 10^7 images of 512 numbers are 20 GB each.
        self.image: NDArray[np.float32] = np.load(embed.path("image.npy"), mmap_mode="r", allow_pickle=False)
        self.text: NDArray[np.float32] = np.load(embed.path("text.npy"), mmap_mode="r", allow_pickle=False)

    def cosine(self, reference_key: str, target_key: str) -> float | None:
        """The cosine, or None where an image is not embedded or nothing moves."""
        if reference_key not in self.number or target_key not in self.number:
            return None
        reference, target = self.number[reference_key], self.number[target_key]
        # float64 before the difference: of two near vectors float32 would leave mostly rounding.
        text = np.asarray(self.text[target], np.float64) - self.text[reference]
        image = np.asarray(self.image[target], np.float64) - self.image[reference]
        length = float(np.linalg.norm(text) * np.linalg.norm(image))
        return float(text @ image) / length if length > 0 else None


def _directions(spec: ParseSpec, embed: Artifact | None) -> _Directions | None:
    if spec.min_direction is None:
        return None
    if embed is None:
        raise RequestError("parse_llm: min_direction needs the input 'embed'; give it, or leave min_direction out")
    return _Directions(embed)


class _Parser:
    """Parses responses in order; what it counts (uses of a text) makes the order matter."""

    def __init__(self, spec: ParseSpec, pairs: _Pairs, directions: _Directions | None) -> None:
        self.spec, self.pairs, self.directions = spec, pairs, directions
        self.tally = ParseTally()

    def parse(self, responses: list[_Row]) -> tuple[list[_Row], list[_Row]]:
        """(triplets, rejects) of some responses."""
        triplets: list[_Row] = []
        rejects: list[_Row] = []
        for response, pair in self.pairs.of(responses):
            answer, reason, detail = self._answer(response, pair)
            # By similarity: many refusals of far pairs say that the mining window is too loose.
            self.tally.count_similarity(pair["image_similarity"], refused=reason == "refusal")
            if answer is None:
                rejects.append(self._reject(response["response_id"], reason, detail))
            else:
                self._instructions(response, pair, answer, triplets, rejects)
        return triplets, rejects

    def _answer(self, response: _Row, pair: _Row) -> tuple[Answer | None, str, str]:
        """(answer, "", "") or (None, reason, detail) where the whole pair is rejected."""
        if response["error"] is not None:
            return None, error_kind(response["error"]), response["error"]
        try:
            answer = read_answer(unwrap_reply(response["response"] or ""))
        except AnswerError as error:
            return None, error.reason, error.detail
        except (ValueError, RecursionError):
            return None, "not_json", "the response is not one that ask_llm writes"
        # What the answer alone shows comes first; counts and vectors are looked up only for what has passed.
        if not answer.valid:
            return None, "refusal", answer.reason
        if len({normalise_instruction(text).lower() for text in answer.instructions}) < len(answer.instructions):
            return None, "same_instructions", " | ".join(answer.instructions)
        if self.spec.max_type_share is not None and self.tally.exceeds_type_share(
            answer.edit_type, self.spec.max_type_share
        ):
            return None, "edit_type_too_common", answer.edit_type
        if self.directions is not None and self.spec.min_direction is not None:
            cosine = self.directions.cosine(pair["reference_key"], pair["target_key"])
            if cosine is None or cosine < self.spec.min_direction:
                return None, "direction", "not embedded" if cosine is None else f"cosine {cosine:.3f}"
        return answer, "", ""

    def _instructions(
        self, response: _Row, pair: _Row, answer: Answer, triplets: list[_Row], rejects: list[_Row]
    ) -> None:
        """The first ``per_pair`` good instructions become triplets, bad ones before them rejects."""
        made = 0
        for number, instruction in enumerate(answer.instructions):
            if made == self.spec.per_pair:
                break
            text = normalise_instruction(instruction)
            reason = instruction_reject_reason(text, self.spec.min_words, self.spec.max_words)
            if not reason and self.tally.uses(text) >= self.spec.max_uses:
                reason = "text_used_too_often"
            if reason:
                rejects.append(self._reject(f"{response['response_id']}#{number}", reason, instruction))
                continue
            # Only what is kept counts towards max_uses and max_type_share.
            self.tally.keep(text, answer.edit_type)
            triplets.append(_triplet(response, pair, text))
            made += 1

    def _reject(self, name: str, reason: str, detail: str) -> _Row:
        self.tally.reject(reason)
        return {"stage": "parse_llm", "id": name, "reason": reason, "detail": detail[:300]}


def _triplet(response: _Row, pair: _Row, text: str) -> _Row:
    identity = f"{response['response_id']}\n{text}"
    return {
        "triplet_id": sha256(identity.encode()).hexdigest()[:32],
        # Kept apart: template texts are the control that an LLM's are compared with.
        "source": "template" if response["model"] == "template" else "llm",
        "reference_key": pair["reference_key"],
        "target_key": pair["target_key"],
        "text": text,
        "response_id": response["response_id"],
        "reference_caption": pair["reference_caption"],
        "target_caption": pair["target_caption"],
    }
