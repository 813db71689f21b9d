"""Settings of pulls, by environment; shared by the command line and the service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.engines.files.checksums import DEFAULT_MB_PER_S
from services.engines.files.download_plan import PullOptions
from services.kit.settings import ServiceSettings


class PullSettings(ServiceSettings):
    """How models are got. The hub's own variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) count too."""

    model_config = SettingsConfigDict(populate_by_name=True)

    checksum_mb_per_s: float = Field(
        DEFAULT_MB_PER_S,
        ge=0,
        validation_alias="SPARKSTACK_CHECKSUM_MB_PER_S",
        description="MB a second at most when files are read for their checksums (0: as fast as the disk goes)",
    )
    ollama_url: str = Field(
        "",
        validation_alias="OLLAMA_URL",
        description="a running Ollama that keeps models, such as http://127.0.0.1:11435 (empty: none)",
    )

    def options(self, *, revision: str = "", upgrade: bool = False, verify: bool = False) -> PullOptions:
        """Return the options of one pull."""
        return PullOptions(revision=revision, upgrade=upgrade, verify=verify, checksum_mb_per_s=self.checksum_mb_per_s)
