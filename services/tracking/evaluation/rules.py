"""What a candidate must show, as a YAML file has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

SHIPPED = Path(__file__).parent / "rules.yaml"

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Margin = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Confidence = Annotated[float, msgspec.Meta(ge=0.5, lt=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Above0 = Annotated[float, msgspec.Meta(gt=0)]


class RulesError(Exception):
    """A file of rules can't be read, or has a rule that there is not; the message says which."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules on one subject: a misspelt one is refused, not left out."""


class ItemRules(Section, frozen=True):
    """How many items."""

    at_least: _Count


class QualityRules(Section, frozen=True):
    """How much worse a mean score may be."""

    margin: _Margin
    confidence: _Confidence = 0.95
    each_set: bool = True


class FailureRules(Section, frozen=True):
    """How many requests may fail."""

    share_at_most: _Share


class FormatRules(Section, frozen=True):
    """How many answers may miss their form."""

    new_at_most: _Count


class LatencyRules(Section, frozen=True):
    """How slow."""

    ratio_at_most: _Above0 | None = None
    p95_s_at_most: _Above0 | None = None


class JudgeRules(Section, frozen=True):
    """What a judge must find, and when it is believed."""

    margin: _Margin
    confidence: _Confidence = 0.95
    consistent_at_least: _Share = 0.5
    unreadable_at_most: _Share = 0.1


class DriftRules(Section, frozen=True):
    """What the traffic may do meanwhile."""

    refuse_while_alarmed: bool = True


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: ItemRules | None = None
    quality: QualityRules | None = None
    failures: FailureRules | None = None
    formats: FormatRules | None = None
    latency: LatencyRules | None = None
    judge: JudgeRules | None = None
    drift: DriftRules | None = None


@dataclass(frozen=True)
class Rules:
    """The rules of a file; None for a section that it leaves out.

    Args:
        source: the file.
    """

    source: str
    items: ItemRules | None = None
    quality: QualityRules | None = None
    failures: FailureRules | None = None
    formats: FormatRules | None = None
    latency: LatencyRules | None = None
    judge: JudgeRules | None = None
    drift: DriftRules | None = None


def load_rules(path: Path = SHIPPED) -> Rules:
    """Return the rules of a file.

    Raises:
        RulesError
    """
    try:
        found = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, _File)
    except OSError as error:
        raise RulesError(f"{path} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise RulesError(f"{path}: {error}; {SHIPPED.name} in {SHIPPED.parent} shows every rule") from None
    rules = Rules(path.name, **{name: getattr(found, name) for name in _File.__struct_fields__})
    if not any(getattr(rules, name) is not None for name in _File.__struct_fields__):
        raise RulesError(f"{path} has no rule: any candidate would pass")
    return rules
