"""backbone: a pretrained CLIP, published or in a local file, becomes a checkpoint that every method can start from."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from zscir.methods.specs import ModelPixelSpec
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BackboneSpec(Spec):
    """``architecture`` is open_clip's name. Give ``pretrained`` (its tag) or the input ``weights`` (a file).

    ``sha256`` is that of the local file and must match. ``quick_gelu`` counts for local files only: OpenAI's weights
    need it, LAION's do not, and the wrong one lowers every score without an error.
    """

    architecture: str
    pretrained: str | None = None
    sha256: Sha256 | None = None
    quick_gelu: bool | None = None
    pixels: ModelPixelSpec = ModelPixelSpec()


@stage(version=1)
def backbone(spec: BackboneSpec, out: Path, weights: Artifact | None = None) -> Facts:
    """Write the checkpoint of method ``clip``. A published tag is downloaded unless the hub's cache has it."""
    # Here, not above: torch and open_clip take seconds to import, and a backbone that is reused needs neither.
    from zscir.methods import towers_pretrained as towers
    from zscir.methods.checkpoint import save_checkpoint

    if weights is None and spec.pretrained is not None:
        method = towers.published_towers(spec.architecture, spec.pretrained, spec.pixels)
    elif weights is not None and spec.pretrained is None:
        path, quick_gelu = _checked(spec, weights)
        method = towers.local_towers(spec.architecture, path, quick_gelu, spec.pixels)
    else:
        raise RequestError("backbone takes either spec.pretrained (an open_clip tag) or the input 'weights' (a file)")
    return {"parameters": save_checkpoint(method, out), "architecture": spec.architecture}


def _checked(spec: BackboneSpec, weights: Artifact) -> tuple[Path, bool]:
    """The local file, if it is the one that the spec means, and which activation it was trained with."""
    if len(weights.files()) != 1 or spec.quick_gelu is None or spec.sha256 is None:
        raise RequestError("local weights are one file, and need spec.sha256 and spec.quick_gelu (true for OpenAI's)")
    (name,) = weights.files()
    # Against the spec, though the file's digest is in the key anyway: a wrong download is refused, not keyed.
    if weights.entries[name].sha256 != spec.sha256:
        raise RequestError(f"{name} has the SHA-256 {weights.entries[name].sha256}, the spec asks for {spec.sha256}")
    return weights.path(name), spec.quick_gelu
