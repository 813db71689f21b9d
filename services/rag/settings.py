"""The RAG service's settings, by environment."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.kit.settings import KeyedSettings


class RagSettings(KeyedSettings):
    """Where the service listens, what it stands on, how it cuts, finds and answers."""

    model_config = SettingsConfigDict(env_prefix="RAG_")
    open_to: ClassVar[str] = "read the documents"

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with a key")
    port: int = Field(8012, ge=0, le=65535, description="port to listen on (0: any free one)")
    api_key: str = Field("", description="key that its clients, the gateway and the command line, send (made by up)")
    gateway_url: str = Field("http://127.0.0.1:8000", description="the gateway, which reaches the model that answers")
    gateway_key: str = Field("", description="key that the gateway wants of the stack's services (made by up)")
    embeddings_url: str = Field("http://127.0.0.1:8011", description="the embeddings service")
    embeddings_key: str = Field("", description="key that the embeddings service wants (made by up)")
    model: str = Field("default", description="model that answers, by a name that the gateway knows")
    embedding_model: str = Field(
        "", description="model that makes the vectors (empty: the embeddings service's default)"
    )
    rerank_model: str = Field("", description="model that reranks (empty: the embeddings service's default)")
    vector_store: Literal["edge", "qdrant", "local"] = Field(
        "edge",
        description="edge: Qdrant's engine in this process; qdrant: the server at RAG_QDRANT_URL; local: for checks",
    )
    qdrant_url: str = Field("http://127.0.0.1:6333", description="the Qdrant server, where RAG_VECTOR_STORE=qdrant")
    qdrant_key: str = Field("", description="key that the Qdrant server wants")
    quantization: Literal["none", "scalar", "binary"] = Field(
        "none", description="of dense vectors in memory, for new collections"
    )
    chunker: Literal["fixed", "sentence", "heading", "semantic"] = Field(
        "heading", description="how new collections cut documents, where they don't say"
    )
    chunk_tokens: int = Field(200, ge=16, le=8192, description="tokens in a chunk, at most")
    chunk_overlap_tokens: int = Field(40, ge=0, le=4096, description="tokens that a chunk repeats of the one before")
    ingest_workers: int = Field(
        0, ge=0, description="processes that read and cut files (0: half of the cores, at least 1)"
    )
    ingest_batch: int = Field(64, ge=1, le=2048, description="chunks that are embedded and written at a time")
    max_file_mb: int = Field(64, gt=0, description="largest file, in MB of 1,000,000 bytes; above: 413")
    max_file_characters: int = Field(20_000_000, gt=0, description="largest text of a file, in characters")
    max_file_pages: int = Field(5000, gt=0, description="most pages of a PDF")
    file_timeout_s: float = Field(120, gt=0, description="bound for reading and cutting one file")
    reader_memory_mb: int = Field(
        2048,
        ge=512,
        description="address space of a process that reads files, in MB; a file that needs more is refused",
    )
    preset: str = Field(
        "fast",
        description="how it retrieves, where a request doesn't say: fast, balanced (reranked: worth it with a "
        "cross-encoder), accurate",
    )
    answer_tokens: int = Field(512, ge=1, description="tokens of an answer, where a request doesn't say")
    history_turns: int = Field(4, ge=0, description="earlier turns that a follow-up question is rewritten with")
    cache_entries: int = Field(1000, ge=0, description="answers that are kept (0: none)")
    cache_ttl_s: float = Field(3600, gt=0, description="how long an answer is kept")
    semantic_cache: bool = Field(False, description="1: also answer a question from a very similar one's answer")
    state: Path = Field(Path(".state"), validation_alias="SPARKSTACK_STATE", description="folder for state and logs")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(?i:debug|info|warning|error|critical)$",
        description="debug, info, warning or error",
    )

    @model_validator(mode="after")
    def _overlap(self) -> "RagSettings":
        if self.chunk_overlap_tokens * 2 > self.chunk_tokens:
            raise ValueError(
                f"RAG_CHUNK_OVERLAP_TOKENS={self.chunk_overlap_tokens} is more than half of "
                f"RAG_CHUNK_TOKENS={self.chunk_tokens}"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where this service keeps its own state."""
        return self.state / "rag"
