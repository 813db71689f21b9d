"""The MLflow server's settings, by environment: MLflow's own names, where it has some."""

from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.kit.settings import LOOPBACK, ServiceSettings

_LOOPBACK_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[::1],[[]::1]:*"
"""What a browser on this machine, or at the end of an ssh tunnel to it, calls the server: whatever the port."""


class MlflowSettings(ServiceSettings):
    """Where MLflow listens and keeps what it is given."""

    model_config = SettingsConfigDict(env_prefix="MLFLOW_")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with the hosts named")
    port: int = Field(5000, ge=0, le=65535, description="port to listen on (0: any free one)")
    backend_store_uri: str = Field(
        "", description="database, as SQLAlchemy names it (empty: SQLite in the state folder)"
    )
    backend_store_password: str = Field(
        "", description="password of the database's user, where its address has none: a secret of its own"
    )
    artifacts_destination: str = Field("", description="folder or bucket of artifacts (empty: in the state folder)")
    server_allowed_hosts: str = Field(
        "", description="names under which browsers may call it, by comma (empty: this machine's own)"
    )
    state: Path = Field(Path(".state"), validation_alias="SPARKSTACK_STATE", description="folder for state and logs")
    log_level: str = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        pattern="^(?i:debug|info|warning|error|critical)$",
        description="debug, info, warning or error",
    )

    @model_validator(mode="after")
    def _no_open_door(self) -> "MlflowSettings":
        if self.host not in LOOPBACK and not self.server_allowed_hosts:
            raise ValueError(
                f"MLFLOW_HOST={self.host} would let anyone in the network read traces and change models, since MLflow "
                "asks for no key: keep MLFLOW_HOST=127.0.0.1 and use an ssh tunnel; or, in a network that is closed, "
                "name the hosts that it is called by in MLFLOW_SERVER_ALLOWED_HOSTS"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where it keeps its own state."""
        return self.state / "mlflow"

    @property
    def database(self) -> str:
        """The database's address."""
        address = self.backend_store_uri or f"sqlite:///{(self.folder / 'mlflow.db').absolute()}"
        user = urlsplit(address).username
        if not self.backend_store_password or not user or urlsplit(address).password:
            return address
        return address.replace(f"{user}@", f"{user}:{quote(self.backend_store_password, safe='')}@", 1)

    @property
    def artifacts(self) -> str:
        """Where artifacts go."""
        return self.artifacts_destination or str((self.folder / "artifacts").absolute())

    @property
    def allowed_hosts(self) -> str:
        """What the `Host` header may say."""
        return self.server_allowed_hosts or _LOOPBACK_HOSTS
