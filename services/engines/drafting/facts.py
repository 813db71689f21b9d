"""What is gathered for the first draft of a recipe, and what of it a person has to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Read for a picture or a sound, or by speculation alone; never for a generated token.
_NOT_DECODING = (
    "visual.", "vision_tower", "vision_model", "multi_modal_projector", "mm_projector", "audio_tower", "mtp.", "nextn.",
)  # fmt: skip
_TABLES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embeddings.weight", "embed_in.weight",
    "token_embd.weight",
)  # fmt: skip
# One row of each is read for a token, also where the first is the output matrix too.
_LAYER_TABLES = ("embed_tokens_per_layer.weight", "per_layer_token_embd.weight")


class DraftError(Exception):
    """No recipe can be drafted; the message says why and what to do."""


@dataclass
class Draft:
    """The facts of a model, as far as its files tell them.

    Args:
        doubts: field → why a person has to look at it.
    """

    id: str
    name: str
    source: dict[str, Any]
    format: str
    licence: str = ""
    family: str = "unknown"
    parameters: int = 1
    active_parameters: int | None = None
    quantization: str = "unknown"
    capabilities: list[str] = field(default_factory=lambda: ["completion"])
    context_tokens: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)

    def doubt(self, name: str, why: str) -> None:
        """Mark a field for a person to look at."""
        self.doubts.setdefault(name, why)

    def need(self, value: int | None, name: str, why: str, otherwise: int) -> int:
        """Return a number; where there is none, `otherwise`, marked for a person."""
        if value:
            return value
        self.doubt(name, why)
        return otherwise


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these fields that is a whole number; of a list, its largest."""
    for name in names:
        value = config.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = max((item for item in value if type(item) is int), default=None)
        if type(value) is int and 0 <= value < 1 << 40:
            return value
    return None


def active_share(name: str, experts: int, used: int, *, tied: bool) -> float:
    """Return which share of a tensor is read for each generated token.

    Args:
        experts: of a layer, of which a token passes `used`; 0 where there are none.
        tied: the table of embeddings is the output matrix, too.
    """
    if any(part in name for part in _NOT_DECODING) or name.endswith(_LAYER_TABLES):
        return 0.0
    if name.endswith(_TABLES):
        return 1.0 if tied else 0.0
    if experts and (".experts." in name or "_exps." in name):
        return used / experts
    return 1.0
