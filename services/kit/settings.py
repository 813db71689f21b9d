"""Settings from the environment, one prefix a service, each with a sentence of help."""

import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import pydantic
from dotenv import dotenv_values
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ServiceSettings(BaseSettings):
    """Base of each service's settings. Read when the service starts, never at import."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class KeyedSettings(ServiceSettings):
    """Base of the settings of a service that is open to this machine alone, unless its callers need a key.

    A subclass has the fields `host` and `api_key`, and says what anyone could do without one.
    """

    open_to: ClassVar[str]

    @pydantic.model_validator(mode="after")
    def _no_open_door(self) -> Self:
        host, key = (variable_of(type(self), field) for field in ("host", "api_key"))
        given: dict[str, Any] = self.model_dump(include={"host", "api_key"})
        if given["host"] not in LOOPBACK and not given["api_key"]:
            raise ValueError(
                f"{host}={given['host']} would let anyone in the network {self.open_to}: set {key} first, or keep "
                f"{host}=127.0.0.1"
            )
        return self


class SettingsError(Exception):
    """A variable has a value that is not allowed; the message names variable, value and rule."""


class SettingHelp(NamedTuple):
    """One line of the reference: the variable, its default as text, what it does."""

    variable: str
    default: str
    description: str


S = TypeVar("S", bound=ServiceSettings)

SECRETS = Path("/run/secrets")
"""Where a container engine puts secrets: a file for each, named by its variable in lower case."""


def load_settings(cls: type[S], secrets: Path = SECRETS, /, **overrides: Any) -> S:
    """Build settings from `overrides`, the environment, and files of secrets; what is named first wins.

    Args:
        secrets: a folder that may not be there; `rag_api_key` in it stands for the variable RAG_API_KEY.

    Raises:
        SettingsError: with one line for each wrong variable, or that a secret can't be read.
    """
    try:
        return cls(_secrets_dir=secrets if secrets.is_dir() else None, **overrides)
    except OSError as error:
        raise SettingsError(
            f"{error.filename}: {error.strerror}; make it readable for the user that this runs as"
        ) from None
    except pydantic.ValidationError as error:
        lines = [_explain(cls, item) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _explain(cls: type[ServiceSettings], item: Any) -> str:
    field = str(item["loc"][0]) if item["loc"] else ""
    by_alias = {variable_of(cls, name).lower(): variable_of(cls, name) for name in cls.model_fields}
    variable = by_alias.get(field.lower()) or (variable_of(cls, field) if field in cls.model_fields else "")
    rule = str(item["msg"]).removeprefix("Value error, ")
    return f"{variable}={item['input']!s}: {rule}" if variable else rule


def variable_of(cls: type[ServiceSettings], field: str) -> str:
    """Return the environment variable that sets `field`."""
    alias = cls.model_fields[field].validation_alias
    if isinstance(alias, str):
        return alias
    return (cls.model_config.get("env_prefix", "") + field).upper()


def describe_settings(cls: type[ServiceSettings]) -> list[SettingHelp]:
    """Return the reference of a service's variables, in the order in which they are declared."""
    rows = []
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(SettingHelp(variable_of(cls, name), _spoken(default), field.description or ""))
    return rows


def _spoken(default: Any) -> str:
    """Return a default as one would write it into the variable."""
    if default in (None, "", {}, (), []):
        return ""
    if isinstance(default, bool):
        return str(int(default))
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)


def load_env_file(path: Path) -> None:
    """Put the variables of a `.env` file into the environment. What is set already wins."""
    for key, value in dotenv_values(path).items():
        if value is not None:
            os.environ.setdefault(key, value)
