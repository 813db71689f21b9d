"""Names that are given to models by promotion: `aliases.json`, which the gateway reads, and how each came about.

    {"aliases": {"production": "<model id>"}, "promotions": {"production": [{…}]}, "log": [{…}]}

`promotions` holds the models that a name has stood for, the present one last: `rollback` takes that one off. `log`
tells all that was done or refused, and is not acted on.
"""

import fcntl
import getpass
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from services.kit.files import write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/\-]{0,99}")
_RESERVED = frozenset({"default"})
_MOST_LOG = 1_000

What = Literal["promoted", "forced", "refused", "rolled back", "removed"]


class NameRefused(Exception):
    """The name can't be given, taken back or read; the message says why."""


@dataclass(frozen=True)
class Event:
    """Something that was done with a name.

    Args:
        model: that it stands for afterwards; of a refusal: that it would have stood for.
        before: what it stood for until then; empty for nothing.
        at: UTC.
        by: the account on this machine.
        runs: the evaluation runs that it rests on.
        rules: each with outcome, figure and limit.
        version: in MLflow's registry; empty where none was reached.
    """

    what: What
    name: str
    model: str
    before: str = ""
    at: str = ""
    by: str = ""
    runs: tuple[str, ...] = ()
    rules: tuple[Mapping[str, str], ...] = ()
    note: str = ""
    version: str = ""


@dataclass(frozen=True)
class _Document:
    aliases: dict[str, str] = field(default_factory=dict)
    promotions: dict[str, list[Event]] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)


class Names:
    """The file of names. Every change is made under a lock, and the file is replaced whole.

    Args:
        path: `aliases.json`; made by the first promotion.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> dict[str, str]:
        """Return which model each name stands for.

        Raises:
            NameRefused: the file can't be read.
        """
        return dict(self._read().aliases)

    def model(self, name: str) -> str:
        """Return what a name stands for; empty for nothing."""
        return self._read().aliases.get(name, "")

    def history(self, name: str) -> list[Event]:
        """Return what the name has stood for, the present model last; what was taken back is not among it."""
        return list(self._read().promotions.get(name, ()))

    def log(self, name: str = "") -> list[Event]:
        """Return all that was done or refused, the newest first."""
        return [event for event in reversed(self._read().log) if not name or event.name == name]

    def promote(self, event: Event) -> Event:
        """Have a name stand for a model from now on; return what is noted of it.

        Raises:
            NameRefused: the name stands for another model than the one that the candidate was compared with.
        """
        check_name(event.name)
        with self._held() as document:
            now = document.aliases.get(event.name, "")
            if now != event.before:
                raise NameRefused(
                    f"{event.name} stands for {now or 'nothing'} by now, not for {event.before or 'nothing'} as when "
                    "the candidate was looked at: somebody else has changed it; promote again"
                )
            noted = _stamped(event)
            document.aliases[event.name] = event.model
            document.promotions.setdefault(event.name, []).append(noted)
            document.log.append(noted)
        return noted

    def refuse(self, event: Event) -> Event:
        """Note that a candidate was refused."""
        with self._held() as document:
            noted = _stamped(event)
            document.log.append(noted)
        return noted

    def roll_back(self, name: str, note: str = "") -> Event:
        """Have a name stand for what it stood for before; return what is noted of it.

        Raises:
            NameRefused: it stands for nothing, or there is nothing before.
        """
        with self._held() as document:
            stack = document.promotions.get(name, [])
            if name not in document.aliases or not stack:
                raise NameRefused(f"{name} stands for no model{_known(document.aliases)}")
            if len(stack) < 2:
                raise NameRefused(
                    f"{name} has stood for {document.aliases[name]} alone, so there is nothing to go back to; "
                    f"`sparkstack promote --remove {name}` takes the name away"
                )
            gone, back = stack.pop(), stack[-1]
            noted = _stamped(Event("rolled back", name, back.model, gone.model, note=note, version=back.version))
            document.aliases[name] = back.model
            document.log.append(noted)
        return noted

    def remove(self, name: str) -> Event:
        """Have a name stand for nothing.

        Raises:
            NameRefused: it does already.
        """
        with self._held() as document:
            if name not in document.aliases:
                raise NameRefused(f"{name} stands for no model{_known(document.aliases)}")
            noted = _stamped(Event("removed", name, "", document.aliases.pop(name)))
            document.promotions.pop(name, None)
            document.log.append(noted)
        return noted

    def note_version(self, event: Event, version: str) -> None:
        """Note the version under which a promotion stands in MLflow's registry."""
        with self._held() as document:
            for events in (document.promotions.get(event.name, []), document.log):
                for place, each in enumerate(events):
                    if each == event:
                        events[place] = replace(each, version=version)

    @contextmanager
    def _held(self) -> Iterator[_Document]:
        """Lock the file, hand out what it says, and write what became of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The file itself is replaced, so that it can't be what is locked.
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = self._read()
            yield document
            del document.log[:-_MOST_LOG]
            # In a container the gateway is another user.
            write_json(self.path, asdict(document), mode=0o644)

    def _read(self) -> _Document:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except FileNotFoundError:
            return _Document()
        except (OSError, msgspec.DecodeError) as error:
            raise NameRefused(
                f"{self.path} can't be read ({error}); the gateway goes on with the names that it last read. Put a "
                "copy of it back, or move it aside to begin anew"
            ) from None


def check_name(name: str) -> None:
    """Refuse a name that clients could not send, or that means something else.

    Raises:
        NameRefused
    """
    if not _NAME.fullmatch(name):
        raise NameRefused(f"{name!r} can't be a model's name: letters, digits, '.', '_', '-' and '/', 100 at most")
    if name in _RESERVED:
        raise NameRefused(
            f"{name!r} is the stack's own: give another name, such as production, and set GATEWAY_DEFAULT_MODEL to it"
        )


def as_rules(rows: Sequence[Any]) -> tuple[Mapping[str, str], ...]:
    """Return checked rules as they are noted."""
    return tuple({key: str(value) for key, value in asdict(row).items() if value} for row in rows)


def shown(event: Event) -> dict[str, Any]:
    """Return an event as JSON has it."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(event))
    return document


def _stamped(event: Event) -> Event:
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return replace(event, at=at, by=_account())


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return ""


def _known(names: Mapping[str, str]) -> str:
    return f"; names are: {', '.join(sorted(names))}" if names else "; nothing was promoted yet"
