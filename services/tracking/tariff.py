"""What things cost in money: the user's own prices, from a YAML file.

currency: EUR
kilowatt_hour: 0.30            # of energy that was measured
models:                        # the first pattern that fits; * stands for anything
  "qwen3.6-35b*": {prompt: 0.10, completion: 0.40}    # a million tokens
  "*": {prompt: 0.01, completion: 0.04, hour: 0.50}   # an hour of answering; request: one request

With `periods:` a list of such mappings, each with `from: 2026-12-01`: a price holds until the next one begins.
"""

from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from services.kit.settings import SettingsError

_PRICES = ("prompt", "completion", "hour", "request")
_FIELDS = ("kilowatt_hour", "models", "from")


@dataclass(frozen=True)
class Use:
    """What was used: of one key, model and day, or of several."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True)
class Prices:
    """The prices of one period."""

    begins: str = ""
    kilowatt_hour: float = 0.0
    models: tuple[tuple[str, dict[str, float]], ...] = ()

    def money(self, model: str, use: Use) -> float | None:
        """Return what it cost; None where no pattern fits the model."""
        price = next((price for pattern, price in self.models if fnmatchcase(model, pattern)), None)
        energy = use.joules / 3.6e6 * self.kilowatt_hour
        if price is None:
            # Idle power and refused requests have no model: nothing but energy can be asked for them.
            return energy if model.startswith("(") else None
        return (
            energy
            + use.prompt_tokens / 1e6 * price.get("prompt", 0.0)
            + use.completion_tokens / 1e6 * price.get("completion", 0.0)
            + use.seconds / 3600 * price.get("hour", 0.0)
            + use.requests * price.get("request", 0.0)
        )


@dataclass(frozen=True)
class Tariff:
    """The user's prices; none at all where there is no file."""

    currency: str = ""
    periods: tuple[Prices, ...] = field(default=())

    def money(self, day: str, model: str, use: Use) -> float | None:
        """Return what use on a day cost; None where it has no price."""
        valid = [period for period in self.periods if period.begins <= day]
        return valid[-1].money(model, use) if valid else None


def read_tariff(path: Path | None) -> Tariff:
    """Return the prices in a file.

    Raises:
        SettingsError: the file is not there, or something in it is no price; with its place.
    """
    if path is None:
        return Tariff()
    where = f"TRACKING_TARIFF={path}"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is not YAML: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("currency"), str):
        raise SettingsError(f"{where}: it begins with `currency:`, such as EUR")
    currency = document.pop("currency")
    listed = document.pop("periods", None)
    if listed is not None and (document or not isinstance(listed, list)):
        raise SettingsError(f"{where}: beside `currency` and `periods`, a list, there is nothing else")
    periods = [_prices(each, where) for each in (listed if listed is not None else [document])]
    return Tariff(currency, tuple(sorted(periods, key=lambda period: period.begins)))


def _prices(document: Any, where: str) -> Prices:
    if not isinstance(document, dict):
        raise SettingsError(f"{where}: a period is a mapping with {', '.join(_FIELDS)}")
    _check_names(document, _FIELDS, where)
    models = document.get("models") or {}
    if not isinstance(models, dict) or not all(isinstance(each, dict) for each in models.values()):
        raise SettingsError(f"{where}: models: maps a model to its prices, {', '.join(_PRICES)}")
    found = []
    for model, prices in models.items():
        _check_names(prices, _PRICES, f"{where}: models: {model}")
        found.append(
            (str(model), {name: _number(value, f"{where}: {model}: {name}") for name, value in prices.items()})
        )
    begins = document.get("from", "")
    if begins and not isinstance(begins, date):
        raise SettingsError(f"{where}: from: {begins!r} is not a day such as 2026-12-01")
    hour = _number(document.get("kilowatt_hour", 0), f"{where}: kilowatt_hour")
    return Prices(begins.isoformat()[:10] if begins else "", hour, tuple(found))


def _check_names(document: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for name in document:
        if name not in known:
            raise SettingsError(f"{where}: {name!r} is not one of {', '.join(known)}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise SettingsError(f"{where}: {value!r} is not a price")
    return float(value)
