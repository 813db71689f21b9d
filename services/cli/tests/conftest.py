import shutil
from pathlib import Path

import pytest

import services
from services.cli.home import Home

CODE = Path(services.__file__).parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A stack's folders, empty, and an environment that names none of a stack's variables."""
    named = ("SPARKSTACK_HOME", "SPARKSTACK_STATE", "SPARKSTACK_API_KEY", "GGUF", "MODE", "MODELS", "OFFLINE")
    for name in (*named, "COMPOSE_PROJECT_NAME", "PROFILE", "PROFILES", "TO", "FROM", "BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    home = Home(CODE, tmp_path, tmp_path / ".state")
    monkeypatch.setenv("SPARKSTACK_HOME", str(tmp_path))
    home.make_folders()
    yield home
    if home.socket.parent != home.run:  # a folder of the system's, since the test's own path is too long
        shutil.rmtree(home.socket.parent, ignore_errors=True)  # `down` removes it
