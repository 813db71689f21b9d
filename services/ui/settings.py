"""How Open WebUI runs beside the stack, by environment. Its own settings are in openwebui.env."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

import services
from services.kit.files import read_json
from services.kit.keys import derive, first_key
from services.kit.settings import ServiceSettings

CODE = Path(services.__file__).resolve().parents[1]
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what it listens on, and where that is reached


class OpenWebuiSettings(ServiceSettings):
    """Where Open WebUI listens, what it keeps where, and which gateway it stands in front of."""

    model_config = SettingsConfigDict(env_prefix="OPENWEBUI_")

    host: str = Field("127.0.0.1", description="address to listen on; it has accounts of its own")
    port: int = Field(3000, ge=1, le=65535, description="port to listen on")
    url: str = Field(
        "", description="address by which browsers reach it through a proxy, such as https://chat.example.org"
    )
    gateway_url: str = Field("", description="the gateway (empty: the one that `up` has started here)")
    task_model: str = Field(
        "", description="model that makes titles and tags, as /v1/models lists it (empty: the small one)"
    )
    secret: str = Field(
        "",
        validation_alias="GATEWAY_OPENWEBUI_SECRET",
        description="what its users' names are signed with (empty: made of the stack's own key, as the gateway's is)",
    )
    keys: str = Field("", validation_alias="SPARKSTACK_API_KEY", description="the gateway's keys; it shows the first")
    state: Path | None = Field(
        None, validation_alias="SPARKSTACK_STATE", description="folder for state and logs (empty: .state)"
    )

    @property
    def state_folder(self) -> Path:
        """The stack's folder for state."""
        home = os.environ.get("SPARKSTACK_HOME")
        return (self.state or (Path(home) if home else CODE) / ".state").expanduser().absolute()

    @property
    def folder(self) -> Path:
        """What it keeps: accounts, chats, files."""
        return self.state_folder / "open-webui"

    @property
    def gateway(self) -> str:
        """The gateway's address, without a slash at its end."""
        if self.gateway_url:
            return self.gateway_url.rstrip("/").removesuffix("/v1")
        place = read_json(self.state_folder / "stack.json").get("services", {}).get("gateway") or {}
        host = str(place.get("host") or "127.0.0.1")
        host = _ANY.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{place.get('port') or 8000}"

    @property
    def key(self) -> str:
        """The key that it shows the gateway."""
        return first_key(self.keys)

    @property
    def shared_secret(self) -> str:
        """What it signs its users' names with; empty where the gateway is elsewhere and no secret was given."""
        if self.secret:
            return self.secret
        file = self.state_folder / "internal.key"
        stack = file.read_text(encoding="ascii").strip() if file.is_file() and not self.gateway_url else ""
        return derive(stack, "open-webui") if stack else ""

    @property
    def origins(self) -> list[str]:
        """The addresses that its pages may have in a browser."""
        here = [f"http://{name}:{self.port}" for name in ("127.0.0.1", "localhost")]
        return [*here, self.url.rstrip("/")] if self.url else here
