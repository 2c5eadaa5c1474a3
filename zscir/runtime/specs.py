"""Specs: frozen, strict, typed models of TOML files; an unknown key or a wrong type is an error."""

import json
import re
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from zscir.runtime.errors import RequestError, did_you_mean

URL_PASSWORD = re.compile(r"//[^/@\s]+:[^/@\s]+@")


def canonical_json(value: Any) -> str:
    """The one JSON text of ``value``: sorted keys, no spaces, UTF-8, no NaN; what every digest is taken of."""
    # Any change here, be it a space, gives every artifact of every store another key.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return sha256(canonical_json(value).encode()).hexdigest()


class Spec(BaseModel):
    """The parameters of a stage. They enter its key, so nothing from the environment belongs here.

    A new optional knob is ``X | None = None``: it leaves the keys of old artifacts as they were.
    """

    # defer_build: most of the specs that a pipeline's modules declare are not used by a run of it.
    model_config = ConfigDict(
        defer_build=True, frozen=True, strict=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> Self:
        """The spec of ``values``; ``where`` names their origin in the message of a RequestError."""
        check_no_passwords(values, where)
        try:
            # As JSON, not as Python: strict pydantic would refuse a TOML array for a tuple.
            return cls.model_validate_json(json.dumps(values))
        except TypeError:
            raise RequestError(f"{where}: dates and times are no values of a spec; write them in quotes") from None
        except ValidationError as error:
            raise RequestError(_explain(cls, error, where)) from None
        except RequestError as error:  # of a spec inside this one
            raise RequestError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The spec in a TOML file. Raises RequestError naming file, field, what was got and what is allowed."""
        return cls.parse(read_toml(Path(path)), str(path))

    def literals(self) -> dict[str, Any]:
        """The JSON-able values that enter the key: every field that is not None."""
        # exclude_none: this is why a new optional field moves no key.
        return self.model_dump(mode="json", exclude_none=True)


def check_no_passwords(value: Any, where: str) -> None:
    """RequestError when a URL in ``value`` holds a password: specs are kept in manifests for all to read."""
    if isinstance(value, dict):
        for name, item in value.items():
            check_no_passwords(item, f"{where}: '{name}'")
    elif isinstance(value, list):
        for item in value:
            check_no_passwords(item, where)
    elif isinstance(value, str) and URL_PASSWORD.search(value):
        raise RequestError(f"{where} holds a URL with a password; secrets belong in the environment, not in a spec")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; RequestError when it is missing or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot read this spec ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not valid TOML: {error}") from None


def _explain(model: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = [f"{where}: {_explain_detail(model, dict(detail))}" for detail in error.errors()[:5]]
    more = error.error_count() - len(lines)
    return "\n".join(lines + ([f"... and {more} more"] if more > 0 else []))


def _explain_detail(model: type[BaseModel], detail: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "(whole file)"
    if detail["type"] == "extra_forbidden":
        allowed = sorted(_model_at(model, detail["loc"][:-1]).model_fields)
        hint = did_you_mean(str(detail["loc"][-1]), allowed)
        return f"unknown key '{field}'; allowed: {', '.join(allowed)}{hint}"
    if detail["type"] == "missing":
        return f"'{field}' is missing and has no default"
    got = repr(detail["input"])
    return f"'{field}' = {got if len(got) < 80 else got[:77] + '...'}: {detail['msg']}"


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for part in path:
        if part in model.model_fields:
            model = next(_models_in(model.model_fields[str(part)].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
