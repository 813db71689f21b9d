import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from services.cli.main import VERBS, cli

HEAVY = ("fastapi", "pydantic", "httpx", "aiohttp", "psutil", "yaml", "supervisor", "xllamacpp", "dotenv")


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "services.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def test_the_list_of_verbs_imports_none_of_them():
    code = f"""
import sys
from click.testing import CliRunner
from services.cli.main import cli
reply = CliRunner().invoke(cli, ["--help"])
assert reply.exit_code == 0, reply.output
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
print(reply.output)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb, (_, line) in VERBS.items():
        assert verb in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there_and_explains_itself(home, verb):
    command = cli.get_command(click.Context(cli), verb)
    assert command.name == verb
    reply = CliRunner().invoke(cli, [verb, "--help"])
    assert reply.exit_code == 0, reply.output
    assert "Usage:" in reply.output


def test_light_verbs_import_no_web_framework():
    modules = ["up", "down", "status", "logs", "restart", "doctor", "key"]
    imports = "; ".join(f"import services.cli.{module}" for module in modules)
    code = f"import sys; {imports}; import services.engines.commands; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_an_unknown_verb_is_a_usage_error(home):
    done = run("fly")
    assert done.returncode == 2
    assert "No such command 'fly'" in done.stderr


def test_a_refusal_is_one_line_without_a_traceback(home):
    done = run("key")
    assert done.returncode == 1
    assert done.stderr.startswith("sparkstack: there is no SPARKSTACK_API_KEY")
    assert len(done.stderr.splitlines()) == 1


def test_env_is_read_and_the_environment_wins(home, monkeypatch):
    home.env_file.write_text("SPARKSTACK_API_KEY=of-the-file\n")
    assert run("key").stdout == "of-the-file\n"
    monkeypatch.setenv("SPARKSTACK_API_KEY", "me=of-the-environment,other")
    assert run("key").stdout == "of-the-environment\n"


def test_a_reader_that_leaves_early_is_no_error(home):
    home.log("gateway").write_text("line\n" * 100_000)
    command = f"{sys.executable} -m services.cli.main logs gateway -n 100000 | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "line\n"
    assert done.stderr == ""
