"""The registry of methods: one line makes a method known to specs, training, checkpoints, evaluation and report.

No torch here: ``zscir plan`` and a run of a finished pipeline read specs only, and importing torch takes over a second.
An entry names its classes as ``module:class``, and they are imported when they are first needed.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from zscir.methods.specs import MethodSpec
from zscir.runtime.errors import RequestError

# What every checkpoint's config.json holds beside the spec of the checkpoint that its method continues.
CONFIG_KEYS = ("format", "method", "architecture", "pixels", "tokenizer", "text_protocol", "backbone")


@dataclass(frozen=True)
class MethodInfo:
    """What the pipeline has to know of a method. A field without a default is one that every method must decide."""

    name: str  # the value of method.name in a spec, and of "method" in tables
    spec: str  # "module:class" of its MethodSpec; in the method's own file, or in specs.py to keep planning fast
    method: str  # "module:class" of its TrainableMethod
    text_protocol: str  # the query strings that it takes, by their name in zscir.benchmarks
    trains: str  # what takes a gradient, for messages: "the mapping"
    holds_towers: bool  # the checkpoint is a whole two-tower model, so that it can be another's backbone
    backbone_gallery: bool = False  # gallery() gives the frozen backbone's own features: embeddings of that one serve
    trained_for_task: bool = True  # False: its towers are stock, and their weighted sum is a control
    init_from: str | None = None  # the method whose checkpoint it continues (the input 'init')
    init_section: str | None = None  # the key of config.json that keeps the spec of that checkpoint
    masks_patches: bool = False  # it trains on masked images, so that the report shows its patches

    def __post_init__(self) -> None:
        empty = [field for field in ("name", "spec", "method", "text_protocol", "trains") if not getattr(self, field)]
        if empty:
            raise RequestError(f"method {self.name!r} is registered without {', '.join(empty)}")
        if (self.init_from is None) != (self.init_section is None):
            raise RequestError(f"method {self.name!r} is registered with one of init_from and init_section; give both")
        if self.init_section in CONFIG_KEYS:
            raise RequestError(
                f"method {self.name!r}: init_section {self.init_section!r} is a key that config.json has"
            )

    @property
    def spec_class(self) -> type[MethodSpec]:
        """The class of its specs; RequestError if it is none, or bears another name."""
        found = self.load_class(self.spec)
        if not issubclass(found, MethodSpec) or found.model_fields["name"].default != self.name:
            raise RequestError(
                f"method '{self.name}': {self.spec} must be a MethodSpec whose name is Literal['{self.name}'] "
                f"with that default"
            )
        return found

    def load_class(self, path: str) -> type:
        """The class at ``module:class``; RequestError if the module has none of that name."""
        module, _, name = path.partition(":")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise RequestError(f"method '{self.name}' is registered as {path}, which is not there: {error}") from None
        if not isinstance(found, type):
            raise RequestError(f"method '{self.name}' is registered as {path}, which is no class")
        return found


def methods_by_name(*entries: MethodInfo) -> dict[str, MethodInfo]:
    """The entries by name; RequestError when two bear one name, as a copied line does at first."""
    by_name = {info.name: info for info in entries}
    if len(by_name) < len(entries):
        raise RequestError(f"two methods bear one name; registered are {', '.join(info.name for info in entries)}")
    return by_name


METHODS = methods_by_name(
    MethodInfo(
        name="clip", spec="zscir.methods.specs:ClipSpec", method="zscir.methods.clip:Clip",
        text_protocol="pli", trains="both towers", holds_towers=True, trained_for_task=False,
    ),
    MethodInfo(
        name="pli", spec="zscir.methods.specs:PliSpec", method="zscir.methods.pli:Pli",
        text_protocol="pli", trains="the towers", holds_towers=True, masks_patches=True,
    ),
    MethodInfo(
        name="tscir_map", spec="zscir.methods.specs:TscirMapSpec", method="zscir.methods.tscir_map:TscirMap",
        text_protocol="tscir", trains="the mapping", holds_towers=False, backbone_gallery=True,
    ),
    MethodInfo(
        name="tscir_compose", spec="zscir.methods.specs:TscirComposeSpec",
        method="zscir.methods.tscir_compose:TscirCompose", text_protocol="tscir", trains="the adapters",
        holds_towers=False, backbone_gallery=True, init_from="tscir_map", init_section="mapping",
    ),
)  # fmt: skip


def method_info(name: str) -> MethodInfo:
    """The entry of a method; RequestError lists the registered ones."""
    if name not in METHODS:
        raise RequestError(f"there is no method '{name}'; registered are {', '.join(METHODS)}")
    return METHODS[name]


def parse_method_spec(value: Any) -> MethodSpec:
    """The spec in a table with a ``name``, or a spec as it is; RequestError if its method is not registered.

    Only the module of the named method is imported.
    """
    if isinstance(value, MethodSpec):
        if type(value) is not method_info(value.name).spec_class:
            raise RequestError(f"{type(value).__name__} is not the registered spec of method '{value.name}'")
        return value
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise RequestError(f"'method' must be a table with a name; registered are {', '.join(METHODS)}")
    return method_info(name).spec_class.parse(value, f"method '{name}'")


# A field of this type holds the spec of any registered method, and is written with all of that method's own fields.
AnyMethodSpec = Annotated[SerializeAsAny[MethodSpec], BeforeValidator(parse_method_spec)]
