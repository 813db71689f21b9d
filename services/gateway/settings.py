"""The gateway's settings, by environment."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.gateway.users import SECRET_CHARACTERS, UserName
from services.kit.settings import LOOPBACK, ServiceSettings

_BACKEND_NAME = re.compile(r"[A-Za-z0-9._\-]+\Z")

Pairs = Annotated[dict[str, str], NoDecode]
Words = Annotated[tuple[str, ...], NoDecode]


class GatewaySettings(ServiceSettings):
    """Where the gateway listens, who may use it, what it stands in front of and how long it waits."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with a key")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on (0: any free one)")
    ollama_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="second port for Ollama clients, used when free (0: none; the stack: 11434)",
    )
    api_keys: Words = Field(
        (),
        validation_alias="SPARKSTACK_API_KEY",
        description="key that clients send; several by comma, each may be NAME=KEY",
    )
    allow_loopback_without_key: bool = Field(
        False, description="1: clients on this machine need no key (many Ollama clients send none)"
    )
    cors_origins: Words = Field(
        (), description="origins whose pages may call the gateway, by comma (http://localhost:3000, or *)"
    )
    backends: Pairs = Field(
        default_factory=dict, description="NAME=URL by comma: OpenAI-compatible servers to stand in front of"
    )
    backend_keys: Pairs = Field(default_factory=dict, description="NAME=KEY by comma: keys that these servers want")
    catalogue: Path | None = Field(None, description="catalogue.json with backends and model facts (made by up)")
    internal_key: str = Field(
        "",
        description="key of the stack's own services: it lets them in, and is what the gateway shows them (made by up)",
    )
    openwebui_secret: str = Field(
        "",
        description="secret that Open WebUI signs its users' names with (FORWARD_USER_INFO_HEADER_JWT_SECRET there), "
        "32 characters or more; empty: all of its users are the one whose key it has (made by up)",
    )
    openwebui_users: UserName = Field(
        "id", description="what Open WebUI's users are called in logs, records and accounts: by their id or email"
    )
    engines_url: str = Field("", description="address of the engines service, which loads models on demand")
    engines_key: str = Field("", description="key that the engines service wants")
    tracking_url: str = Field("", description="address of the tracking service (empty: no records of requests)")
    tracking_key: str = Field("", description="key that the tracking service wants")
    record_sample: float = Field(
        0.1, ge=0, le=1, description="share of requests whose text the tracking service is told, 0 to 1"
    )
    record_queue: int = Field(
        10_000, ge=1, description="records that may wait for the tracking service; more are dropped, and counted"
    )
    record_interval_s: float = Field(1, gt=0, description="how often the waiting records are sent")
    links: Pairs = Field(
        default_factory=dict,
        description="NAME=URL by comma: other pages that the gateway's page links to (MLflow, Prometheus, Grafana)",
    )
    load_wait_s: float = Field(
        60,
        ge=0,
        description="plain requests: how long one is held while its model is loaded; then 503 with Retry-After",
    )
    background_wait_s: float = Field(
        30,
        ge=0,
        description="how long a request that nobody waits for (a chat's title, tags) lets others on its model go first",
    )
    aliases: Pairs = Field(default_factory=dict, description="ALIAS=MODEL by comma")
    aliases_file: Path | None = Field(
        None, description="aliases.json, the names that `sparkstack promote` gives; read anew when it changes"
    )
    default_model: str = Field("", description="model behind the alias `default` (empty: the first chat model)")
    connect_timeout_s: float = Field(5, gt=0, description="bound for a connection to an engine")
    first_token_timeout_s: float = Field(
        300, gt=0, description="streams: bound for the first content event (long prefills take minutes)"
    )
    response_timeout_s: float = Field(
        600,
        gt=0,
        description="plain requests: bound for the response head; GATEWAY_FIRST_TOKEN_TIMEOUT_S where that is "
        "set and lower",
    )
    idle_timeout_s: float = Field(120, gt=0, description="bound for silence in the middle of an answer")
    max_body_mb: int = Field(32, gt=0, description="largest request body, in MB of 1,000,000 bytes; above: 413")
    max_upload_mb: int = Field(
        512, gt=0, description="largest upload to a service's own paths (/v1/files …), in MB; above: 413"
    )
    keep_alive_s: float = Field(
        10, gt=0, description="streams: a comment each so many seconds until the first content event"
    )
    discovery_interval_s: float = Field(5, gt=0, description="how often the backends' models are asked for")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(?i:debug|info|warning|error|critical)$",
        description="debug, info, warning or error",
    )

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("backends", "backend_keys", "aliases", "links", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            name, equals, target = part.partition("=")
            if not (name and equals and target):
                raise ValueError(f"{part!r} is not NAME=VALUE")
            pairs[name.strip()] = target.strip()
        return pairs

    @field_validator("backends")
    @classmethod
    def _backends(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: backend_url(name, url) for name, url in value.items()}

    @field_validator("links")
    @classmethod
    def _links(cls, value: dict[str, str]) -> dict[str, str]:
        for name, url in value.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{name}={url}: a link begins with http:// or https://")
        return value

    @field_validator("engines_url")
    @classmethod
    def _engines_url(cls, value: str) -> str:
        return backend_url("engines", value) if value else ""

    @field_validator("tracking_url")
    @classmethod
    def _tracking_url(cls, value: str) -> str:
        return backend_url("tracking", value) if value else ""

    @model_validator(mode="after")
    def _one_engines(self) -> "GatewaySettings":
        if self.engines_url and "engines" in self.backends:
            raise ValueError("a backend can't be called engines beside GATEWAY_ENGINES_URL: give it another name")
        return self

    @model_validator(mode="after")
    def _key_of_its_own(self) -> "GatewaySettings":
        if self.internal_key and self.internal_key in {
            part for key in self.api_keys for part in (key, key.partition("=")[2])
        }:
            raise ValueError(
                "GATEWAY_INTERNAL_KEY is also in SPARKSTACK_API_KEY: whoever has it could name any caller; give the "
                "services a key of their own"
            )
        return self

    @model_validator(mode="after")
    def _long_secret(self) -> "GatewaySettings":
        if 0 < len(self.openwebui_secret) < SECRET_CHARACTERS:
            raise ValueError(
                f"GATEWAY_OPENWEBUI_SECRET has {len(self.openwebui_secret)} characters and could be guessed: use "
                f"{SECRET_CHARACTERS} or more, such as those of `openssl rand -hex 32`"
            )
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> "GatewaySettings":
        if self.host not in LOOPBACK and not self.api_keys:
            raise ValueError(
                f"GATEWAY_HOST={self.host} would let anyone in the network use the engines: set SPARKSTACK_API_KEY "
                "first, or keep GATEWAY_HOST=127.0.0.1 and use an ssh tunnel"
            )
        return self

    @property
    def max_body_bytes(self) -> int:
        """The body limit in bytes."""
        return self.max_body_mb * 1_000_000

    @property
    def max_upload_bytes(self) -> int:
        """The limit of uploads in bytes."""
        return self.max_upload_mb * 1_000_000

    @property
    def plain_head_timeout_s(self) -> float:
        """The bound for a plain request's response head."""
        if "first_token_timeout_s" in self.model_fields_set:
            return min(self.response_timeout_s, self.first_token_timeout_s)
        return self.response_timeout_s


def backend_url(name: str, url: str) -> str:
    """Return a backend's root address without a trailing slash or `/v1`.

    Raises:
        ValueError: naming what is wrong with the name or the address.
    """
    if not _BACKEND_NAME.match(name):
        raise ValueError(f"backend name {name!r}: letters, digits, '.', '_' and '-' alone")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"backend {name}: {url!r} is not an address such as http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
