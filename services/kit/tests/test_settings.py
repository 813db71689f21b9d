import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

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


class Door(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="DOOR_")
    api_key: str = Field("", description="key")
    keys: Annotated[tuple[str, ...], NoDecode] = Field((), validation_alias="HOUSE_KEYS", description="keys")

    @field_validator("keys", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "door_api_key").write_text("from-a-file\n")
    (folder / "house_keys").write_text("a,b\n")
    return folder


def test_a_secret_is_a_file_named_by_its_variable(secrets: Path) -> None:
    door = load_settings(Door, secrets)
    assert (door.api_key, door.keys) == ("from-a-file", ("a", "b"))


def test_the_environment_and_overrides_win_over_secrets(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_API_KEY", "from-the-environment")
    assert load_settings(Door, secrets).api_key == "from-the-environment"
    assert load_settings(Door, secrets, api_key="given").api_key == "given"


def test_without_a_folder_of_secrets_nothing_is_read(tmp_path: Path) -> None:
    assert load_settings(Door, tmp_path / "nowhere").api_key == ""


def test_other_files_among_the_secrets_do_no_harm(secrets: Path) -> None:
    (secrets / "kubernetes.io").mkdir()
    (secrets / "tls.pem").write_bytes(b"\xff\xfe")
    assert load_settings(Door, secrets).api_key == "from-a-file"


def test_secrets_that_are_not_ours_to_read_are_named(secrets: Path) -> None:
    secrets.chmod(0)
    root = os.geteuid() == 0
    if root:  # whom no mode stops
        os.seteuid(65534)
    try:
        with pytest.raises(SettingsError, match=r"/secrets: Permission denied; make it readable"):
            load_settings(Door, secrets)
    finally:
        if root:
            os.seteuid(0)
        secrets.chmod(0o700)
