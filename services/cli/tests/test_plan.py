import json
from dataclasses import replace

import click
import pytest
import yaml
from click.testing import CliRunner

from services.cli import plan
from services.cli.plan import check_digest, check_disk, internal_key, make_plan
from services.cli.units import STAMP
from services.engines.commands.service import stack_models
from services.engines.recipes import MODELS_FOLDER
from services.engines.tests.gguf_files import write
from services.kit.files import read_json, write_json
from services.kit.settings import load_settings
from services.stack import SERVICES
from services.ui.settings import OpenWebuiSettings
from tests.testkit.ports import free_port


@pytest.fixture
def variables():
    ports = {service.port_variable: str(free_port()) for service in SERVICES}
    return {**ports, "GATEWAY_OLLAMA_PORT": "0", "WITHOUT": "mlflow, tracking"}


@pytest.fixture
def whole(home, variables):
    """A home that has the environment of the optional services, and variables that leave nothing out."""
    stamp = home.root / ".venvs" / "tracking" / STAMP
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    return replace(home, code=home.root), {name: value for name, value in variables.items() if name != "WITHOUT"}


def test_the_catalogue_says_what_the_gateway_needs(home, variables):
    made = make_plan(home, "", variables)
    assert made.catalogue["default"] == "smollm2-135m-instruct-q4_1"
    assert [(backend["name"], backend["engine"]) for backend in made.catalogue["backends"]] == [
        ("embeddings", "sparkstack"),
        ("rag", "sparkstack"),
    ]
    assert made.catalogue["backends"][1]["url"] == f"http://127.0.0.1:{variables['RAG_PORT']}"
    assert "/v1/vector_stores" in made.catalogue["backends"][1]["paths"]
    model = made.catalogue["managed"][0]
    assert set(model) == {
        "id", "aliases", "capabilities", "context_tokens", "size_bytes", "parameters", "quantization", "family",
        "format", "licence", "digest", "created",
    }  # fmt: skip
    json.dumps(made.catalogue)


def test_each_service_gets_its_place(home, variables):
    made = make_plan(home, "", {**variables, "GATEWAY_HOST": "0.0.0.0"})
    engines, embeddings, rag, gateway = made.units
    assert engines.environment["ENGINES_PORT"] == variables["ENGINES_PORT"]
    assert engines.environment["ENGINES_HOST"] == "127.0.0.1", "only the gateway is ever on another address"
    assert engines.arguments == ["--supervisor", str(home.socket), "--programs", str(home.programs)]
    assert gateway.environment["GATEWAY_ENGINES_URL"] == f"http://127.0.0.1:{variables['ENGINES_PORT']}"
    assert gateway.environment["GATEWAY_ENGINES_KEY"] == engines.environment["ENGINES_API_KEY"]
    key = engines.environment["ENGINES_API_KEY"]
    assert embeddings.environment["EMBEDDINGS_API_KEY"] == rag.environment["RAG_EMBEDDINGS_KEY"] == key
    assert rag.environment["RAG_API_KEY"] == gateway.environment["GATEWAY_INTERNAL_KEY"] == key
    assert rag.environment["RAG_GATEWAY_URL"] == f"http://127.0.0.1:{variables['GATEWAY_PORT']}"
    assert gateway.environment["GATEWAY_HOST"] == "0.0.0.0"
    assert gateway.environment["GATEWAY_CATALOGUE"] == str(home.catalogue)
    assert gateway.inputs == [home.catalogue]
    assert made.record()["services"] == {
        "engines": {"host": "127.0.0.1", "port": int(variables["ENGINES_PORT"])},
        "embeddings": {"host": "127.0.0.1", "port": int(variables["EMBEDDINGS_PORT"])},
        "rag": {"host": "127.0.0.1", "port": int(variables["RAG_PORT"])},
        "gateway": {"host": "0.0.0.0", "port": int(variables["GATEWAY_PORT"])},
    }


def environments(made):
    return {unit.service.name: unit.environment for unit in made.units}


def test_traces_go_to_mlflow_and_records_to_tracking_where_they_run(whole):
    home, variables = whole
    made = make_plan(home, "", variables)
    found = environments(made)
    mlflow = f"http://127.0.0.1:{variables['MLFLOW_PORT']}"
    told = {name for name, each in found.items() if "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in each}
    assert told == set(found) - {"mlflow"}
    assert found["rag"]["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == f"{mlflow}/v1/traces"
    assert found["gateway"]["GATEWAY_TRACKING_URL"] == f"http://127.0.0.1:{variables['TRACKING_PORT']}"
    assert found["gateway"]["GATEWAY_TRACKING_KEY"] == found["tracking"]["TRACKING_API_KEY"] == internal_key(home)
    assert found["gateway"]["GATEWAY_LINKS"] == f"MLflow={mlflow}"
    assert found["tracking"]["TRACKING_MLFLOW_URL"] == mlflow
    backend = next(each for each in made.catalogue["backends"] if each["name"] == "tracking")
    assert backend["paths"] == ["/v1/feedback", "/v1/tracking"]


def test_a_collector_and_links_of_ones_own_are_kept(whole):
    home, variables = whole
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        found = environments(make_plan(home, "", {**variables, name: "http://127.0.0.1:4318"}))
        assert not any("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in each for each in found.values())
    found = environments(make_plan(home, "", {**variables, "GATEWAY_LINKS": "Grafana=http://127.0.0.1:3001"}))
    assert found["gateway"]["GATEWAY_LINKS"].endswith(",Grafana=http://127.0.0.1:3001")


def test_what_is_left_out_is_said_and_nobody_is_told_of_it(home, whole, variables):
    with_it, _ = whole
    made = make_plan(with_it, "", variables)
    assert [line for line in made.remarks if "left out" in line] == [
        "left out, as WITHOUT says: mlflow",
        "left out, as WITHOUT says: tracking",
    ]
    found = environments(made)
    assert found["gateway"]["GATEWAY_LINKS"] == ""
    assert "GATEWAY_TRACKING_URL" not in found["gateway"]
    bare = replace(home, code=home.root / "elsewhere")
    made = make_plan(bare, "", {name: value for name, value in variables.items() if name != "WITHOUT"})
    assert sum("scripts/bootstrap.py tracking" in line for line in made.remarks) == 2
    assert set(environments(made)) == {"engines", "embeddings", "rag", "gateway"}


def test_the_models_digest_is_read_once_for_each_file(home, monkeypatch):
    (model,) = stack_models({"state": home.state}, {}).preload
    assert check_digest(home, model) == "sha256 verified"
    monkeypatch.setattr(plan.hashlib, "file_digest", lambda *args: pytest.fail("read again"))
    assert check_digest(home, model) == "sha256 verified"


def test_a_damaged_model_is_refused(home, tmp_path):
    path = write(tmp_path / "model.gguf")
    (own,) = stack_models({"state": home.state, "gguf": str(path)}, {}).preload
    assert check_digest(home, own) == f"your file {path}"
    packaged = replace(own, sha256="0" * 64)
    with pytest.raises(click.ClickException, match=r"has the sha256 .*, the recipe says 0000"):
        check_digest(home, packaged)
    assert read_json(home.state / "verified.json") == {}


def test_the_key_between_services_is_made_once_for_its_owner_alone(home):
    key = internal_key(home)
    assert len(key) > 30
    assert internal_key(home) == key
    assert home.internal_key.stat().st_mode & 0o777 == 0o600


def test_open_webui_finds_the_secret_that_the_gateway_was_given(home, variables, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(home.state))
    monkeypatch.delenv("GATEWAY_OPENWEBUI_SECRET", raising=False)
    *_, gateway = make_plan(home, "", variables).units
    secret = gateway.environment["GATEWAY_OPENWEBUI_SECRET"]
    assert load_settings(OpenWebuiSettings).shared_secret == secret != internal_key(home)
    *_, gateway = make_plan(home, "", {**variables, "GATEWAY_OPENWEBUI_SECRET": "s" * 32}).units
    assert gateway.environment["GATEWAY_OPENWEBUI_SECRET"] == "s" * 32


def test_a_full_disk_is_a_sentence(home):
    check_disk(home)
    with pytest.raises(click.ClickException, match=r"logs and state need 1,000,000,000,000 MB.*SPARKSTACK_STATE"):
        check_disk(home, 10**18)


def test_documents_are_written_whole_for_their_owner_alone(tmp_path):
    path = tmp_path / "document.json"
    write_json(path, {"a": "é"})
    assert read_json(path) == {"a": "é"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    for broken in ("", "[1]", "{"):
        path.write_text(broken)
        assert read_json(path) == {}


def test_a_model_that_is_to_be_loaded_and_is_not_here_is_got_first(home, monkeypatch):
    """Without a terminal nobody can be asked before a large download: the start ends, and says what to run."""
    recipe = home.state / "recipes" / "far-away.yaml"
    recipe.parent.mkdir()
    document = yaml.safe_load((MODELS_FOLDER / "smollm2-135m-instruct-q4_1.yaml").read_text())
    document |= {"id": "far-away", "aliases": []}
    document["source"] = {"kind": "hub", "repository": "some/where", "files": ["*.gguf"], "size_bytes": 5_000_000_000}
    recipe.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("HF_HOME", str(home.root / "hub"))
    monkeypatch.setenv("MODELS", "far-away")
    runner = CliRunner()
    with runner.isolation() as (said, *_), pytest.raises(click.exceptions.Exit) as caught:
        stack_models({"state": home.state}, {})
    assert caught.value.exit_code == 1
    text = said.getvalue().decode()
    assert "far-away: 5.0 GB, not here yet" in text
    assert "sparkstack pull far-away --yes" in text
