"""Open the backend that a model's spec names."""

from __future__ import annotations

from pathlib import Path

from zscir.llm.backend_protocol import Backend
from zscir.llm.models import OpenAIModel, TemplateModel, TransformersModel
from zscir.runtime.errors import RequestError


def open_backend(model: TemplateModel | TransformersModel | OpenAIModel, weights: Path | None) -> Backend:
    """The backend of ``model``; RequestError when what it needs is not there. ``weights``: folder of a local model."""
    if isinstance(model, TemplateModel):
        from zscir.llm.template import TemplateBackend

        return TemplateBackend(model.max_changes)
    if isinstance(model, OpenAIModel):
        from zscir.llm.endpoint import Endpoint
        from zscir.llm.openai_backend import OpenAIBackend

        return OpenAIBackend(model, Endpoint.from_env())
    if weights is None:
        raise RequestError(
            "the backend 'transformers' needs the input 'weights': the folder of a causal language model"
        )
    from zscir.llm.transformers_backend import TransformersBackend

    return TransformersBackend(model, weights)
