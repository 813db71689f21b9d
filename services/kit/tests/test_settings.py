from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.kit.settings import ServiceSettings, SettingsError, describe_settings, load_env_file, load_settings


class Lamp(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LAMP_")
    watts: int = Field(60, gt=0, description="power")
    room: str = Field("", validation_alias="HOUSE_ROOM", description="where")


def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMP_WATTS", "many")
    with pytest.raises(SettingsError, match=r"^LAMP_WATTS=many: "):
        load_settings(Lamp)


def test_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMP_WATTS", "40")
    assert load_settings(Lamp).watts == 40
    assert load_settings(Lamp, watts=25).watts == 25


def test_the_reference_names_variables_defaults_and_meaning() -> None:
    assert describe_settings(Lamp) == [("LAMP_WATTS", "60", "power"), ("HOUSE_ROOM", "", "where")]


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("LAMP_WATTS=10\nHOUSE_ROOM='the attic' # top\n")
    monkeypatch.setenv("LAMP_WATTS", "99")
    monkeypatch.setenv("HOUSE_ROOM", "")  # so that the test's end restores it
    monkeypatch.delenv("HOUSE_ROOM")
    load_env_file(file)
    lamp = load_settings(Lamp)
    assert (lamp.watts, lamp.room) == (99, "the attic")
