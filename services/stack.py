"""The one table of services: what runs, how it is started, where it listens, how to see that it is well.

Process configuration is rendered from it. A new service is a new row.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """One service of the stack.

    Args:
        purpose: what it is for, in a few words for a person.
        command: the verb of `sparkstack` that runs it in the foreground.
        port_variable: the environment variable that moves it.
        port: where it listens by default.
        health_path: answers 200 when it can do its work.
        needs: services that are started before it and stopped after it.
        variables: beginnings of the names of the variables that it reads; it is restarted when one changes.
        code: folders under `services/` whose code it runs; it is restarted when that changes.
        behind_gateway: the gateway lists its models and sends their requests to it.
        paths: beginnings of the gateway's paths that it answers, beside those of its models.
        environment: the folder under `.venvs` whose Python runs it; empty for the stack's own.
        optional: the stack answers without it: `up` doesn't wait for it, and WITHOUT=NAME leaves it out.
    """

    name: str
    purpose: str
    command: tuple[str, ...]
    port_variable: str
    port: int
    health_path: str
    needs: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    behind_gateway: bool = False
    paths: tuple[str, ...] = ()
    environment: str = ""
    optional: bool = False


SERVICES = (
    Service(
        name="engines",
        purpose="loads, watches and unloads models",
        command=("engines",),
        port_variable="ENGINES_PORT",
        port=8010,
        health_path="/readyz",
        variables=(
            "ENGINES_",
            "MODELS",
            "GGUF",
            "LLAMACPP_",
            "VLLM_",
            "SGLANG_",
            "HF_",
            "GGML_",
            "OMP_",
            "KMP_",
            "LOG_LEVEL",
            "OTEL_",
        ),
        code=("engines", "kit"),
    ),
    Service(
        name="embeddings",
        purpose="vectors of texts, and reranking",
        command=("embeddings",),
        port_variable="EMBEDDINGS_PORT",
        port=8011,
        health_path="/readyz",
        variables=("EMBEDDINGS_", "HF_", "LOG_LEVEL", "OTEL_"),
        code=("embeddings", "kit"),
        behind_gateway=True,
    ),
    Service(
        name="rag",
        purpose="answers from documents",
        command=("rag", "serve"),
        port_variable="RAG_PORT",
        port=8012,
        health_path="/readyz",
        needs=("embeddings",),
        variables=("RAG_", "LOG_LEVEL", "OTEL_"),
        code=("rag", "kit"),
        behind_gateway=True,
        paths=("/v1/files", "/v1/vector_stores", "/v1/collections"),
    ),
    Service(
        name="mlflow",
        purpose="experiments, models, prompts, traces",
        command=("mlflow",),
        port_variable="MLFLOW_PORT",
        port=5000,
        health_path="/health",
        variables=("MLFLOW_", "LOG_LEVEL"),
        code=("tracking", "kit"),
        environment="tracking",
        optional=True,
    ),
    Service(
        name="tracking",
        purpose="records of requests, drift, feedback, cost",
        command=("tracking",),
        port_variable="TRACKING_PORT",
        port=8015,
        health_path="/readyz",
        variables=("TRACKING_", "LOG_LEVEL", "OTEL_"),
        code=("tracking", "kit"),
        paths=("/v1/feedback", "/v1/tracking"),
        behind_gateway=True,
        environment="tracking",
        optional=True,
    ),
    Service(
        name="gateway",
        purpose="front door: OpenAI's and Ollama's APIs, page",
        command=("gateway",),
        port_variable="GATEWAY_PORT",
        port=8000,
        health_path="/readyz",
        needs=("engines", "embeddings", "rag"),
        variables=("GATEWAY_", "LOG_LEVEL", "OTEL_", "SPARKSTACK_API_KEY"),
        code=("gateway", "kit"),
    ),
)


def find_service(name: str) -> Service | None:
    """Return the row of this name."""
    return next((service for service in SERVICES if service.name == name), None)


def start_order(services: tuple[Service, ...] = SERVICES) -> list[Service]:
    """Return the services so that each stands after those that it needs.

    Raises:
        ValueError: when one needs a service that isn't in the table, or they need each other in a circle.
    """
    rows = {service.name: service for service in services}
    done: dict[str, Service] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            raise ValueError(f"services need each other in a circle: {' → '.join([*path, name])}")
        if name not in rows:
            raise ValueError(f"{path[-1]} needs {name}, which is not in the table of services")
        path.append(name)
        for needed in rows[name].needs:
            visit(needed)
        done[path.pop()] = rows[name]

    for service in services:
        visit(service.name)
    return list(done.values())
