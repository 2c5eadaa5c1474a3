"""Run requests through a causal language model on this machine with transformers, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from zscir.llm.backend_protocol import LlmReply, LlmRequest, Message, error_text, temperature_for
from zscir.llm.models import TransformersModel
from zscir.runtime.errors import RequestError

# What transformers raises on a folder that is damaged or is something else.
MODEL_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError, SafetensorError)


class TransformersBackend:
    """A model folder as transformers saves it; only safetensors are read and no code from the folder is run."""

    def __init__(self, model: TransformersModel, folder: Path) -> None:
        self.spec = model
        disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without annotations
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=model.dtype
            )
        except MODEL_LOAD_ERRORS as error:
            raise RequestError(f"{folder}: not a causal language model that can be loaded: {error}") from None
        self.model = loaded.to(device).eval()
        if self.tokenizer.pad_token_id is None:
            if self.tokenizer.eos_token is None:
                raise RequestError(f"{folder}: the tokenizer has neither a padding nor an end token")
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.ends = _end_tokens(self.model, self.tokenizer)

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        """One reply each, batch by batch in the order of the requests."""
        for first in range(0, len(requests), self.spec.batch_size):
            yield from self._batch(requests[first : first + self.spec.batch_size])

    def _batch(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        prompts = [self.prompt(request.messages) for request in requests]
        lengths = [len(self._encode([prompt])["input_ids"][0]) for prompt in prompts]
        room = getattr(self.model.config, "max_position_embeddings", 10**9) - self.spec.max_tokens
        fitting = [index for index, length in enumerate(lengths) if length <= room]
        texts = self._generate([requests[i] for i in fitting], [prompts[i] for i in fitting]) if fitting else []
        answers = dict(zip(fitting, texts, strict=True))
        for index, request in enumerate(requests):
            if index not in answers:
                detail = (
                    f"{lengths[index]} tokens; with max_tokens = {self.spec.max_tokens} the model has room for {room}"
                )
                yield LlmReply(
                    request.request_id, None, error_text("prompt_too_long", detail), tokens_in=lengths[index]
                )
                continue
            text, tokens, ended = answers[index]
            error = None if ended else error_text("truncated", "the answer was cut off; raise max_tokens")
            finish = "stop" if ended else "length"
            yield LlmReply(request.request_id, text, error, lengths[index], tokens, finish_reason=finish)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text of a conversation by the model's own chat template, or a plain form where it has none."""
        turns = [dict(message) for message in messages]
        if self.tokenizer.chat_template is None:
            return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns) + "\n\nAssistant:"
        try:
            return self._templated(turns)
        except TemplateError:  # some templates know no system role
            first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            return self._templated([first, *turns[2:]])

    def _templated(self, turns: list[Message]) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )

    def _encode(self, prompts: list[str]) -> Any:
        # A chat template writes the special tokens itself; a second start token would move every answer.
        special = self.tokenizer.chat_template is None
        return self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=special)

    @torch.inference_mode()
    def _generate(self, requests: Sequence[LlmRequest], prompts: list[str]) -> list[tuple[str, int, bool]]:
        """(text, tokens, whether it ended by itself) of each prompt; the draw depends on the seed and the batch."""
        encoded = self._encode(prompts).to(self.model.device)
        temperature = temperature_for(requests[0], self.spec.temperature)
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        # The caller's random state is left as it was; each batch draws from a seed of its own.
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_batch_seed(requests))
            generated = self.model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=self.spec.max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                **sampling,
            )
        return [self._read(row.tolist()) for row in generated[:, encoded["input_ids"].shape[1] :]]

    def _read(self, tokens: list[int]) -> tuple[str, int, bool]:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        kept = tokens if end is None else tokens[:end]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)), len(kept), end is not None


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    named = model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _batch_seed(requests: Sequence[LlmRequest]) -> int:
    text = f"{requests[0].seed}\n{requests[0].attempt}\n{requests[0].request_id}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
