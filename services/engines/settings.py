"""The engines service's settings, by environment."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.kit.settings import KeyedSettings

_GIB = 2**30


class EnginesSettings(KeyedSettings):
    """Where the service listens, which models it serves, how much memory they may take and how long they stay."""

    model_config = SettingsConfigDict(env_prefix="ENGINES_", populate_by_name=True)
    open_to: ClassVar[str] = "start and stop engines"

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with a key")
    port: int = Field(8010, ge=0, le=65535, description="port to listen on (0: any free one)")
    api_key: str = Field("", description="key that its clients, the gateway and the command line, send (made by up)")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="MODELS",
        description="models to load at start, by comma, the default first: ids or aliases, ID@ENGINE picks an engine",
    )
    gguf: str = Field("", validation_alias="GGUF", description="a GGUF file of your own, served as the default model")
    memory_gib: float | None = Field(
        None, gt=0, description="at most so many GiB for all engines together (empty: the machine's, less the reserve)"
    )
    reserve_gib: float | None = Field(
        None, ge=0, description="GiB that stay free for the host (empty: 8 % of the memory, 1 to 10)"
    )
    min_residency_s: float = Field(
        60, ge=0, description="a loaded model stays at least so long before another may take its memory"
    )
    idle_ttl_s: float = Field(
        1800, ge=0, description="a model that was loaded on demand goes when unused for so long (0: never)"
    )
    load_timeout_s: float = Field(1800, gt=0, description="bound for a load, from the start to the first token")
    lease_s: float = Field(15, ge=1, description="how long the gateway may use an engine before it must renew")
    restart_stalled: bool = Field(True, description="0: a wedged engine is only reported, not started again")
    docker: str = Field(
        "",
        description="Docker that has the engines' containers, unix:///PATH or http://HOST:PORT (empty: engines are "
        "processes of this machine)",
    )
    project: str = Field("sparkstack", description="whose containers they are: their label sparkstack.project")
    models_folder: Path = Field(
        Path("/models"), description="where engines' containers see models; this service must see it at the same path"
    )
    state: Path = Field(Path(".state"), validation_alias="SPARKSTACK_STATE", description="folder for state and logs")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(?i:debug|info|warning|error|critical)$",
        description="debug, info, warning or error",
    )

    @field_validator("models", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def cap_bytes(self) -> int | None:
        """What all engines together may take; None for what the machine has."""
        return None if self.memory_gib is None else int(self.memory_gib * _GIB)

    @property
    def reserve_bytes(self) -> int | None:
        """What stays free for the host; None for the machine's own figure."""
        return None if self.reserve_gib is None else int(self.reserve_gib * _GIB)

    @property
    def folder(self) -> Path:
        """Where this service keeps its own state."""
        return self.state / "engines"
