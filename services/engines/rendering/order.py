"""What is to be rendered, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.engines.recipes import EngineArguments, EngineName, Recipe
from services.engines.threads import Threads

Target = Literal["process", "compose", "kubernetes", "sagemaker", "vertex"]
CLOUDS: tuple[Target, ...] = ("sagemaker", "vertex")
CLOUD_PORT = 8080
"""SageMaker calls this port, and Vertex's default is the same."""

SHM_BYTES = 16 << 30
"""Shared memory comes out of the one pool of memory that a Spark has: enough for PyTorch's workers, no more."""


class RenderError(Exception):
    """A recipe can't be rendered; the message names what is wrong, and what to do."""


@dataclass(frozen=True)
class Order:
    """One recipe on one engine, as it is to run at one target.

    Args:
        arguments: what the recipe says for this engine.
        context_tokens: of one request.
    """

    recipe: Recipe
    arguments: EngineArguments
    engine: EngineName
    target: Target
    port: int
    model: str
    host: str
    served_name: str
    context_tokens: int
    sequences: int
    threads: Threads | None

    @property
    def gpu(self) -> bool:
        """Whether the engine is to have the GPU; `device: any` gets none, so that it runs everywhere."""
        return self.arguments.device == "gpu"

    @property
    def where(self) -> str:
        """The recipe's entry, for messages."""
        return f"{self.recipe.id}: engines.{self.engine}"

    @property
    def model_is_path(self) -> bool:
        """Whether the engine loads a file or folder, and asks no hub."""
        return self.model.startswith("/")

    def check(self) -> None:
        """Check what holds for every engine.

        Raises:
            RenderError: a container has no image, or a cloud wants another port.
        """
        if self.target != "process" and not self.arguments.image:
            raise RenderError(f"{self.where}.image is missing: the target {self.target} runs a container image")
        if self.target in CLOUDS and self.port != CLOUD_PORT:
            raise RenderError(f"{self.target} calls port {CLOUD_PORT}, not {self.port}; leave it at that")
        if self.context_tokens > self.recipe.context_tokens:
            raise RenderError(
                f"{self.recipe.id} was trained for {self.recipe.context_tokens} tokens, {self.context_tokens} are "
                "asked for; ask for that many or fewer"
            )

    def refuse(self, *targets: Target, why: str) -> None:
        """Refuse targets that the engine can't run at.

        Raises:
            RenderError: this order is for one of them.
        """
        if self.target in targets:
            raise RenderError(f"{self.recipe.id}@{self.engine} can't be rendered for {self.target}: {why}")

    def hub_environment(self) -> dict[str, str]:
        """Return what keeps libraries of the hub from asking it: all is there before an engine starts.

        In a cloud the engine downloads a model that is no path by itself.
        """
        offline = self.target not in CLOUDS or self.model_is_path
        return {**({"HF_HUB_OFFLINE": "1"} if offline else {}), "DO_NOT_TRACK": "1"}

    def volumes(self, caches: Mapping[str, str]) -> dict[str, str]:
        """Return the folders to mount: where the model lies, and the caches of an engine that compiles kernels."""
        if self.target in ("process", *CLOUDS):
            return {}
        model = {"models": "/models"} if self.model_is_path else {"huggingface": "/root/.cache/huggingface"}
        return {**model, **(caches if self.gpu else {})}


@dataclass(frozen=True)
class Rendered:
    """How an engine is started.

    Args:
        image: None for a process.
        command: for a process what follows the Python interpreter; for a container what follows the image's own
            entrypoint, which is never replaced (NVIDIA's sets up forward compatibility): `args:` in Kubernetes.
        gpu: the container gets the GPU.
        shm_bytes: of /dev/shm; 0 for the runtime's default.
        ulimits: -1 for none.
        volumes: a name (a model folder or a cache, which outlives the container) → its folder inside.
        files: path inside → text; the command names them.
        invoke_path: that a cloud posts requests to; None elsewhere.
        start_period_s: how long it may take to become healthy: downloads apart, the load and compilation of kernels.
    """

    image: str | None
    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    health_path: str
    start_period_s: int
    gpu: bool = False
    shm_bytes: int = 0
    ipc_host: bool = False
    ulimits: dict[str, int] = field(default_factory=dict)
    cap_add: tuple[str, ...] = ()
    volumes: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    invoke_path: str | None = None
