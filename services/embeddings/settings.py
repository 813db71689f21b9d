"""The embeddings service's settings, by environment."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.kit.settings import KeyedSettings


class EmbeddingsSettings(KeyedSettings):
    """Where the service listens, which models it serves, and how much it takes on."""

    model_config = SettingsConfigDict(env_prefix="EMBEDDINGS_")
    open_to: ClassVar[str] = "use the models"

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with a key")
    port: int = Field(8011, ge=0, le=65535, description="port to listen on (0: any free one)")
    api_key: str = Field("", description="key that its clients, the gateway and rag, send (made by up)")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="models to serve, by comma, the default first: ids of the shipped list (empty: all that are here)",
    )
    catalogue: Path | None = Field(
        None, description="file with more models, in the form of services/embeddings/models.yaml; docs/embeddings.md"
    )
    preload: bool = Field(True, description="0: the default model is loaded by the first request, as the others are")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where torch models run; auto: cuda where it is")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of torch models; auto: float16 on cuda, float32 on the CPU"
    )
    threads: int = Field(0, ge=0, description="threads that compute one batch (0: all cores)")
    batch_tokens: int = Field(4096, ge=64, description="tokens in one batch, padding included")
    batch_texts: int = Field(64, ge=1, description="texts in one batch")
    queue_tokens: int = Field(
        262_144, ge=1024, description="tokens that may wait for one model; what comes on top is told 429"
    )
    max_texts: int = Field(2048, ge=1, description="texts in one request")
    rerank_cache_mb: int = Field(
        64,
        ge=0,
        description="for token vectors of documents that a late-interaction model reranks again (0: none kept)",
    )
    max_documents: int = Field(1000, ge=1, description="documents in one rerank request")
    max_body_mb: int = Field(32, gt=0, description="largest request body, in MB of 1,000,000 bytes; above: 413")
    idle_ttl_s: float = Field(
        1800, ge=0, description="a model other than the default goes when unused for so long (0: never)"
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
