"""Servers that take secrets by variables alone get them by a line of shell: each is run with a stand-in program."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.compose.files import core

SECRETS = {
    "sparkstack_api_key": "me=sk-first,sk-second\n",
    "webui_secret_key": "session\n",
    "gateway_openwebui_secret": "shared\n",
    "qdrant_key": "q-key\n",
    "valkey_password": "v-word\n",
}
CONFIGS = '{"0":{"enable":true,"key":"@KEY@"}}'


@pytest.fixture
def run(tmp_path: Path):
    """A function that runs a service's command with its secrets and a program that tells what it was given."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()

    def start(service: str, program: str, without: tuple[str, ...] = (), **variables: str) -> tuple[dict, str, str]:
        for name, text in SECRETS.items():
            if name not in without:
                (secrets / name).write_text(text)
        path = (tmp_path if program.startswith("./") or program.endswith(".sh") else programs) / program
        path.write_text('#!/bin/sh\necho "$*"\nenv -0 > env\n[ -t 0 ] || cat > stdin\n')
        path.chmod(0o755)
        shell, flag, text = core()[service].get("entrypoint") or core()[service]["command"]
        done = subprocess.run(
            [shell, flag, text.replace("/run/secrets", str(secrets))],
            cwd=tmp_path,
            env={"PATH": f"{programs}:{os.environ['PATH']}", **variables},
            input="",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "env").read_text().split("\0")
        return dict(line.split("=", 1) for line in lines if line), done.stdout, (tmp_path / "stdin").read_text()

    return start


def test_open_webui_gets_the_first_key_and_its_secrets(run):
    given, _, _ = run("open-webui", "start.sh", ("valkey_password",), OLLAMA_API_CONFIGS=CONFIGS)
    assert given["OPENAI_API_KEYS"] == given["RAG_OPENAI_API_KEY"] == "sk-first"
    assert json.loads(given["OLLAMA_API_CONFIGS"])["0"] == {"enable": True, "key": "sk-first"}
    assert (given["WEBUI_SECRET_KEY"], given["FORWARD_USER_INFO_HEADER_JWT_SECRET"]) == ("session", "shared")
    assert given["QDRANT_API_KEY"] == "q-key"
    assert "WEBSOCKET_REDIS_URL" not in given


def test_open_webui_is_told_of_valkey_where_it_has_its_password(run):
    given, _, _ = run("open-webui", "start.sh", OLLAMA_API_CONFIGS=CONFIGS)
    assert given["WEBSOCKET_REDIS_URL"] == "redis://:v-word@valkey:6379/0"


def test_qdrant_gets_its_key(run):
    given, _, _ = run("qdrant", "entrypoint.sh")
    assert given["QDRANT__SERVICE__API_KEY"] == "q-key"


def test_valkey_reads_its_password_where_no_process_list_shows_it(run):
    given, line, stdin = run("valkey", "valkey-server")
    assert line == "-\n"
    assert stdin.splitlines() == ["requirepass v-word", 'save ""', "appendonly no", "dir /tmp"]
    assert "v-word" not in line + json.dumps(given)
