import json

import click
import pytest

from services.cli import plan
from services.cli.files import read_json, write_json
from services.cli.plan import check_digest, check_disk, make_plan
from services.cli.up import NoSuchModeError, check_mode
from services.engines.commands.engine import resolve_model
from services.engines.tests.gguf_files import write
from tests.testkit.ports import free_port


@pytest.fixture
def variables():
    return {"GATEWAY_PORT": str(free_port()), "LLAMACPP_PORT": str(free_port()), "GATEWAY_OLLAMA_PORT": "0"}


def test_the_catalogue_says_what_the_gateway_needs(home, variables):
    made = make_plan(home, "", variables, {})
    assert made.catalogue["default"] == "smollm2-135m-instruct-q4_1"
    (backend,) = made.catalogue["backends"]
    assert backend["url"] == f"http://127.0.0.1:{variables['LLAMACPP_PORT']}"
    assert (backend["name"], backend["engine"]) == ("llamacpp", "llamacpp")
    (model,) = backend["models"]
    assert set(model) == {
        "id", "aliases", "capabilities", "context_tokens", "size_bytes", "parameters", "quantization", "family",
        "format", "licence", "digest",
    }  # fmt: skip
    json.dumps(made.catalogue)


def test_each_service_gets_its_place(home, variables):
    made = make_plan(home, "", {**variables, "GATEWAY_HOST": "0.0.0.0"}, {})
    engine, gateway = made.units
    assert engine.arguments[engine.arguments.index("--port") + 1] == variables["LLAMACPP_PORT"]
    assert gateway.environment["GATEWAY_HOST"] == "0.0.0.0"
    assert gateway.environment["GATEWAY_CATALOGUE"] == str(home.catalogue)
    assert gateway.inputs == [home.catalogue]
    assert made.record()["services"] == {
        "llamacpp": {"host": "127.0.0.1", "port": int(variables["LLAMACPP_PORT"])},
        "gateway": {"host": "0.0.0.0", "port": int(variables["GATEWAY_PORT"])},
    }


def test_the_models_digest_is_read_once_for_each_file(home, monkeypatch):
    model = resolve_model("", {})
    assert check_digest(home, model) == "sha256 verified"
    monkeypatch.setattr(plan.hashlib, "file_digest", lambda *args: pytest.fail("read again"))
    assert check_digest(home, model) == "sha256 verified"


def test_a_damaged_model_is_refused(home, tmp_path):
    path = write(tmp_path / "model.gguf")
    own = resolve_model(str(path), {})
    assert check_digest(home, own) == f"your file {path}"
    packaged = own.__class__(**{**own.__dict__, "sha256": "0" * 64})
    with pytest.raises(click.ClickException, match=r"has the sha256 .*, the recipe says 0000"):
        check_digest(home, packaged)
    assert read_json(home.state / "verified.json") == {}


def test_a_full_disk_is_a_sentence(home):
    check_disk(home)
    with pytest.raises(click.ClickException, match=r"logs and state need 1,000,000,000,000 MB.*SPARKSTACK_STATE"):
        check_disk(home, 10**18)


def test_modes():
    check_mode("")
    check_mode("embedded")
    for mode in ("compose", "kubernetes"):
        with pytest.raises(NoSuchModeError, match=f"MODE={mode}: ") as caught:
            check_mode(mode)
        assert caught.value.exit_code == 2


def test_documents_are_written_whole_for_their_owner_alone(tmp_path):
    path = tmp_path / "document.json"
    write_json(path, {"a": "é"})
    assert read_json(path) == {"a": "é"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    for broken in ("", "[1]", "{"):
        path.write_text(broken)
        assert read_json(path) == {}
