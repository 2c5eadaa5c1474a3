"""The specs of the language models, one per backend: only fields on which the answers depend."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from zscir.runtime.specs import Spec

ModelName = Annotated[str, Field(min_length=1, max_length=200)]
Temperature = Annotated[float, Field(ge=0, le=2)]


class TemplateModel(Spec):
    """Rules instead of a model. Pairs that differ in more than ``max_changes`` ways are refused."""

    backend: Literal["template"]
    max_changes: Annotated[int, Field(ge=1, le=5)] = 3

    @property
    def name(self) -> str:
        """What the records call it."""
        return "template"


class TransformersModel(Spec):
    """A causal language model on this machine; its files are the input ``weights``, which bear its identity."""

    backend: Literal["transformers"]
    name: ModelName
    temperature: Temperature = 0.0  # greedy
    max_tokens: Annotated[int, Field(ge=1)] = 400
    batch_size: Annotated[int, Field(ge=1)] = 16  # bears identity: a batch's padding moves the last digits
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class OpenAIModel(Spec):
    """A model behind an OpenAI-compatible service; ``ZSCIR_LLM_BASE_URL`` and ``ZSCIR_LLM_API_KEY`` say where.

    ``structure`` is how the form of the answer is requested: ``schema`` (a JSON schema), ``strict_schema`` (the same
    with ``strict``, without the lengths that this mode rejects), ``json_object``, or ``free`` (by the prompt alone).
    ``temperature`` and ``seed`` are left out of requests where they are None (some models reject them).
    """

    backend: Literal["openai"]
    name: ModelName
    temperature: Temperature | None = 0.7
    seeded: bool = True
    max_tokens: Annotated[int, Field(ge=1)] = 400
    # OpenAI's reasoning models reject max_tokens; many compatible servers know nothing else.
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structure: Literal["schema", "strict_schema", "json_object", "free"] = "schema"
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("extra")
    @classmethod
    def _check_extra_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = {"model", "messages", "temperature", "seed", "max_tokens", "max_completion_tokens", "response_format"}
        if taken & set(value):
            raise ValueError(f"'extra' may not set {sorted(taken & set(value))}; the spec has fields for them")
        return value


LlmModel = Annotated[TemplateModel | TransformersModel | OpenAIModel, Field(discriminator="backend")]
