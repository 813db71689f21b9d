"""Which names lead to which model on which backend: pure, in memory, answered at once whatever is broken."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from services.gateway.control import ManagedModel
from services.kit.errors import ModelNotFound

ENGINES = "engines"
"""The backend of every model that the engines service loads on demand."""
DEFAULT_ALIAS = "default"
RAG = "rag"
"""The capability of models that answer from documents by asking another model, through this gateway again."""
_OPERATIONS: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"chat", "completion"}),
    "text_completion": frozenset({"chat", "completion"}),
    "embeddings": frozenset({"embeddings"}),
    "rerank": frozenset({"rerank"}),
}
"""What can be asked of a model that has one of these capabilities."""
_MAX_ALIAS_STEPS = 8


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model on one backend; None where nobody said."""

    id: str
    aliases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    context_tokens: int | None = None
    dimensions: int | None = None
    """Of its vectors, where it makes some."""
    size_bytes: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    family: str | None = None
    format: str | None = None
    licence: str | None = None
    digest: str | None = None
    created: int = 0
    missing: bool = False
    """Its files are not on this machine: it has a name, but is not listed."""

    def merged(self, other: "ModelFacts") -> "ModelFacts":
        """Return these facts, completed by `other` where they are missing."""
        missing = {
            name: getattr(other, name)
            for name in self.__dataclass_fields__
            if name != "missing" and not getattr(self, name) and getattr(other, name)
        }
        return replace(self, **missing)


@dataclass(frozen=True)
class Target:
    """Where a request for a model goes."""

    backend: str
    upstream_id: str
    public_id: str
    facts: ModelFacts
    operations: frozenset[str] | None = None
    """What can be asked of it; None where nobody said what it can do."""

    @property
    def managed(self) -> bool:
        """Whether the engines service loads it on demand; `upstream_id` is then its recipe's id."""
        return self.backend == ENGINES


@dataclass(frozen=True)
class Entry:
    """One line of `GET /v1/models`: a target and every other name that leads to it."""

    target: Target
    aliases: tuple[str, ...]


@dataclass
class Catalogue:
    """The names of all models of all backends.

    Args:
        settings_aliases: from the environment; they win over a recipe's.
        default_model: what `default` means; empty for the first model that can chat.
        promoted: names that `sparkstack promote` has given; the environment's win over them.
    """

    settings_aliases: Mapping[str, str] = field(default_factory=dict)
    default_model: str = ""
    promoted: Mapping[str, str] = field(default_factory=dict)
    _models: dict[str, tuple[ModelFacts, ...]] = field(default_factory=dict)
    _known: dict[tuple[str, str], ModelFacts] = field(default_factory=dict)
    _names: dict[str, Target] = field(default_factory=dict)
    _entries: tuple[Entry, ...] = ()
    _promoted_entries: tuple[tuple[str, Entry], ...] = ()

    def add_backend(self, backend: str, facts: Iterable[ModelFacts] = ()) -> None:
        """Register a backend, in order of precedence, with what the catalogue file says of its models."""
        self._models[backend] = tuple(facts)
        for model in self._models[backend]:
            self._known[backend, model.id] = model
        self._build()

    def set_models(self, backend: str, models: Iterable[ModelFacts]) -> None:
        """Replace a backend's models by what it lists now; facts of the catalogue file stay."""
        merged = tuple(
            model.merged(known) if (known := self._known.get((backend, model.id))) else model for model in models
        )
        if merged != self._models.get(backend):
            self._models[backend] = merged
            self._build()

    def set_default(self, model: str) -> None:
        """Change what `default` means."""
        if model != self.default_model:
            self.default_model = model
            self._build()

    def set_aliases(self, promoted: Mapping[str, str]) -> bool:
        """Replace the promoted names; return whether they are others than before."""
        if promoted == self.promoted:
            return False
        self.promoted = dict(promoted)
        self._build()
        return True

    def entries(self) -> tuple[Entry, ...]:
        """Return every model that can be used, once, under its public id."""
        return self._entries

    def promoted_entries(self) -> tuple[tuple[str, Entry], ...]:
        """Return each promoted name that leads to a model that can be used, with that model."""
        return self._promoted_entries

    def resolve(self, name: str) -> Target:
        """Return where `name`, an id, `backend/id` or an alias, leads.

        Raises:
            ModelNotFound: naming what there is.
        """
        target = self._names.get(name)
        if target is None:
            missing = f"model {name!r}"
            if name in self.promoted:
                missing = f"model {self.promoted[name]!r} here, for which {name!r} stands"
            raise ModelNotFound(f"there is no {missing}; {self._offer()}", param="model")
        return target

    def offering(self, operation: str) -> list[str]:
        """Return the ids of the models that are known to be good for an operation."""
        ids = (entry.target for entry in self._entries)
        return [target.public_id for target in ids if target.operations is not None and operation in target.operations]

    def _offer(self) -> str:
        ids = [entry.target.public_id for entry in self._entries]
        if not ids:
            return "no backend has named a model yet (sparkstack status)"
        more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
        return f"GET /v1/models lists: {', '.join(ids[:10])}{more}"

    def _build(self) -> None:
        aliases = {**self.promoted, **self.settings_aliases}
        counts = Counter(model.id for models in self._models.values() for model in models)
        names: dict[str, Target] = {}
        targets: list[Target] = []
        for backend, models in self._models.items():
            for model in models:
                qualified = f"{backend}/{model.id}"
                public = model.id if counts[model.id] == 1 else qualified
                target = Target(backend, model.id, public, model, _operations(model))
                targets.append(target)
                names[qualified] = target
                names.setdefault(model.id, target)
        for target in targets:
            for alias in target.facts.aliases:
                names.setdefault(alias, target)
        for alias in aliases:
            found = _follow(alias, aliases, names)
            if found is not None:
                names[alias] = found
        default = self._default(names, targets)
        if default is not None:
            names[DEFAULT_ALIAS] = default
            for alias in aliases:  # an alias of `default` itself
                if alias not in names and (found := _follow(alias, aliases, names)) is not None:
                    names[alias] = found
        self._names = names
        self._entries = tuple(
            Entry(target, tuple(sorted(n for n, t in names.items() if t is target and n != target.public_id)))
            for target in targets
            if not target.facts.missing
        )
        self._promoted_entries = tuple(self._named(self.promoted, names))

    def _named(self, aliases: Iterable[str], names: Mapping[str, Target]) -> Iterator[tuple[str, Entry]]:
        """Return each alias with its model, where that is listed, and the alias is not itself a model's id."""
        entries = {entry.target.public_id: entry for entry in self._entries}
        for alias in aliases:
            entry = entries.get(names[alias].public_id) if alias in names else None
            if entry is not None and alias not in entries:
                yield alias, entry

    def _default(self, names: Mapping[str, Target], targets: list[Target]) -> Target | None:
        if self.default_model:
            return names.get(self.default_model)
        # A model that answers from documents asks `default` itself: it would ask itself.
        able = [t for t in targets if not t.facts.missing and RAG not in t.facts.capabilities]
        able = [t for t in able if not t.facts.capabilities or "chat" in t.facts.capabilities]
        return next((t for t in able if t.managed), able[0] if able else None)


def _follow(alias: str, aliases: Mapping[str, str], names: Mapping[str, Target]) -> Target | None:
    name = alias
    for _ in range(_MAX_ALIAS_STEPS):
        name = aliases.get(name, name)
        if name not in aliases:
            return names.get(name)
    return None


def _operations(facts: ModelFacts) -> frozenset[str] | None:
    if not facts.capabilities:
        return None
    known = frozenset(facts.capabilities)
    found = frozenset(operation for operation, needs in _OPERATIONS.items() if needs & known)
    return found - {"text_completion"} if RAG in known else found


def facts_from_document(document: Mapping[str, Any]) -> ModelFacts:
    """Return facts from one model of `catalogue.json`; unknown fields are left alone."""
    values = {name: document[name] for name in ModelFacts.__dataclass_fields__ if document.get(name) is not None}
    for name in ("aliases", "capabilities"):
        values[name] = tuple(values.get(name, ()))
    return ModelFacts(**values)


_NOT_THE_SAME = frozenset({"created", "missing", "dimensions"})


def facts_from_managed(model: ManagedModel) -> ModelFacts:
    """Return facts from one line of the engines service's list."""
    same = {name: getattr(model, name) for name in ModelFacts.__dataclass_fields__ if name not in _NOT_THE_SAME}
    return ModelFacts(**same, created=model.created or 0, missing=model.state == "missing")


def facts_from_listing(item: Mapping[str, Any], *, own: bool = False) -> ModelFacts | None:
    """Return facts from one item of a backend's `/v1/models`; None where it has no id.

    llama.cpp puts them into `meta`, vLLM gives `max_model_len`, our own services `sparkstack`.

    Args:
        own: it is one of the stack's own services; no other server may give its models further names.
    """
    model_id = item.get("id")
    if not isinstance(model_id, str) or not model_id:
        return None
    meta, said = _object(item.get("meta")), _object(item.get("sparkstack"))
    context = said.get("context_tokens") or meta.get("n_ctx") or item.get("max_model_len")
    created = item.get("created")
    return ModelFacts(
        id=model_id,
        aliases=_words(said.get("aliases")) if own else (),
        capabilities=_words(said.get("capabilities")),
        context_tokens=_positive(context),
        dimensions=_positive(said.get("dimensions")),
        family=next(iter(_words([said.get("family")])), None),
        licence=next(iter(_words([said.get("licence")])), None),
        size_bytes=_positive(meta.get("size")),
        parameters=_positive(meta.get("n_params")),
        quantization=meta.get("ftype") if isinstance(meta.get("ftype"), str) else None,
        created=created if isinstance(created, int) else 0,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str) and word) if isinstance(value, list) else ()


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
