"""The tracking service's settings, by environment."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.kit.settings import KeyedSettings


class TrackingSettings(KeyedSettings):
    """Where the service listens, what it keeps and for how long, how it looks for drift, what things cost."""

    model_config = SettingsConfigDict(env_prefix="TRACKING_")
    open_to: ClassVar[str] = "read the records"

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with a key")
    port: int = Field(8015, ge=0, le=65535, description="port to listen on (0: any free one)")
    api_key: str = Field("", description="key that its clients, the gateway and the command line, send (made by up)")
    gateway_url: str = Field("http://127.0.0.1:8000", description="the gateway, which reaches the judge")
    gateway_key: str = Field("", description="key that the gateway wants of the stack's services (made by up)")
    embeddings_url: str = Field("", description="the embeddings service, for drift of meaning (empty: not measured)")
    embeddings_key: str = Field("", description="key that the embeddings service wants (made by up)")
    mlflow_url: str = Field("", description="the MLflow server, for reports and evaluations (empty: none)")
    store_text: bool = Field(False, description="1: keep prompts and answers of sampled requests, personal data masked")
    keep_days: int = Field(90, ge=1, description="days that records are kept; sums of cost stay")
    keep_text_days: int = Field(14, ge=1, description="days that texts are kept, where they are kept at all")
    queue_records: int = Field(50_000, ge=100, description="records that may wait to be stored; more are dropped")
    window_records: int = Field(200, ge=20, description="sampled requests in one window of the drift monitor")
    look_interval_s: float = Field(60, gt=0, description="how often the drift monitor looks whether a window is full")
    tariff: Path | None = Field(
        None,
        description="YAML file with prices, as in services/tracking/README.md (empty: no money)",
    )
    operators: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default", "loopback"),
        description="names of keys that see and delete everybody's records, by comma; others see their own",
    )
    power_interval_s: float = Field(5, gt=0, description="how often power is read, where it can be (GPU, CPU package)")
    state: Path = Field(Path(".state"), validation_alias="SPARKSTACK_STATE", description="folder for state and logs")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(?i:debug|info|warning|error|critical)$",
        description="debug, info, warning or error",
    )

    @field_validator("operators", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def folder(self) -> Path:
        """Where this service keeps its own state."""
        return self.state / "tracking"
