import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from services.kit.files import write_json
from services.kit.keys import derive
from services.kit.settings import load_settings
from services.ui import commands
from services.ui.openwebui import environment, file_settings
from services.ui.settings import OpenWebuiSettings
from tests.testkit.ports import free_port


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a stack that runs."""
    for name in ("GATEWAY_OPENWEBUI_SECRET", "SPARKSTACK_HOME", "OPENWEBUI_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARKSTACK_API_KEY", "ann=sk-ann, sk-bob")
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path))
    (tmp_path / "open-webui").mkdir()
    (tmp_path / "internal.key").write_text("internal\n")
    write_json(tmp_path / "stack.json", {"services": {"gateway": {"host": "0.0.0.0", "port": 8123}}})
    return tmp_path


def given(**overrides: object) -> dict[str, str]:
    variables = overrides.pop("variables", {})
    assert isinstance(variables, dict)
    return environment(load_settings(OpenWebuiSettings, **overrides), variables)


def test_it_finds_the_stack_that_runs_here(state: Path) -> None:
    found = given()
    assert found["OPENAI_API_BASE_URLS"] == found["RAG_OPENAI_API_BASE_URL"] == "http://127.0.0.1:8123/v1"
    assert found["OLLAMA_BASE_URLS"] == "http://127.0.0.1:8123"
    assert found["OPENAI_API_KEYS"] == found["RAG_OPENAI_API_KEY"] == "sk-ann"
    assert json.loads(found["OLLAMA_API_CONFIGS"])["0"]["key"] == "sk-ann"
    assert found["DATA_DIR"] == str(state / "open-webui")


def test_both_connections_say_what_a_request_is_for_and_ask_for_models_that_chat() -> None:
    wanted = {"X-OpenWebUI-Task": "{{TASK}}", "X-Sparkstack-Capability": "chat"}
    for name in ("OPENAI_API_CONFIGS", "OLLAMA_API_CONFIGS"):
        assert json.loads(file_settings()[name])["0"]["headers"] == wanted


def test_the_file_holds_no_secret_and_each_line_is_as_compose_reads_it() -> None:
    text = Path(commands.CODE, "services/ui/openwebui.env").read_text()
    for name, value in file_settings().items():
        assert f"\n{name}={value}\n" in text, "compose and this reader must see the same value: no quotes, no comment"
        assert "KEY" not in name
        assert "SECRET" not in name
        assert "$" not in value


def test_names_are_signed_with_what_the_gateway_of_the_stack_expects(state: Path) -> None:
    assert given()["FORWARD_USER_INFO_HEADER_JWT_SECRET"] == derive("internal", "open-webui")
    assert given(secret="s" * 32)["FORWARD_USER_INFO_HEADER_JWT_SECRET"] == "s" * 32


def test_a_gateway_elsewhere_has_another_key_so_that_without_a_secret_no_names_are_sent(state: Path) -> None:
    found = given(gateway_url="https://spark.example.org/v1")
    assert found["OPENAI_API_BASE_URLS"] == "https://spark.example.org/v1"
    assert found["FORWARD_USER_INFO_HEADER_JWT_SECRET"] == ""
    assert found["ENABLE_FORWARD_USER_INFO_HEADERS"] == "False"


def test_what_is_set_around_it_wins_but_what_is_the_stacks_own_is_not_passed_on(state: Path) -> None:
    around = {
        "ENABLE_SIGNUP": "False",
        "PATH": "/bin",
        "OPENAI_API_BASE_URLS": "https://elsewhere.example",
        "RAG_TOP_K": "99",
        "RAG_API_KEY": "inner",
        "GATEWAY_INTERNAL_KEY": "inner",
        "HF_TOKEN": "hf",
    }
    found = given(variables=around)
    assert (found["ENABLE_SIGNUP"], found["PATH"]) == ("False", "/bin")
    assert found["OPENAI_API_BASE_URLS"] == "http://127.0.0.1:8123/v1"
    assert found["RAG_TOP_K"] == file_settings()["RAG_TOP_K"]
    assert not {"RAG_API_KEY", "GATEWAY_INTERNAL_KEY", "HF_TOKEN"} & found.keys()
    assert "internal" not in found.values()


def test_a_proxy_of_the_environment_does_not_stand_before_the_gateway(state: Path) -> None:
    assert given(variables={"no_proxy": "intra.example"})["NO_PROXY"] == "intra.example,127.0.0.1,localhost,::1"


def test_its_pages_have_this_machines_addresses_or_the_one_that_is_named(state: Path) -> None:
    found = given(port=3100)
    assert found["CORS_ALLOW_ORIGIN"] == "http://127.0.0.1:3100;http://localhost:3100"
    assert "WEBUI_SESSION_COOKIE_SECURE" not in found
    found = given(url="https://chat.example.org/")
    assert found["CORS_ALLOW_ORIGIN"].endswith(";https://chat.example.org")
    assert found["WEBUI_SESSION_COOKIE_SECURE"] == found["WEBUI_AUTH_COOKIE_SECURE"] == "True"


def test_another_model_makes_titles_by_either_connection(state: Path) -> None:
    found = given(task_model="qwen3-4b")
    assert (found["TASK_MODEL_EXTERNAL"], found["TASK_MODEL"]) == ("qwen3-4b", "ollama.qwen3-4b")


def test_sessions_outlive_a_restart_and_their_key_is_nobody_elses(state: Path) -> None:
    assert given()["WEBUI_SECRET_KEY"] == given()["WEBUI_SECRET_KEY"]
    assert (state / "open-webui" / "session.key").stat().st_mode & 0o077 == 0


# --- the verb -----------------------------------------------------------------------------------------------------


def test_without_its_environment_it_says_how_to_get_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_ENVIRONMENT", state / "none")
    result = CliRunner().invoke(commands.open_webui)
    assert result.exit_code == 1
    assert "make open-webui" in result.output


def test_without_a_gateway_it_does_not_start(state: Path) -> None:
    settings = load_settings(OpenWebuiSettings, gateway_url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(click.ClickException, match="make up"):
        commands.check_gateway(settings)
