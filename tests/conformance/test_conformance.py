"""The wire contract, asked of every engine that runs here through the gateway.

What a pair of engine and model can't do is named in its recipe (`lacks`), and must really not work there.
"""

import openai
import pytest

from tests.conformance.checks import Check
from tests.conformance.conftest import note
from tests.conformance.subject import Place, Subject

pytestmark = pytest.mark.timeout(300)


async def test_the_contract_is_kept(running: Place, subject: Subject, check: Check) -> None:
    reason = running.lacks.get(check.name)
    if reason is None:
        note(running, check.name, "broken")
        await check.run(subject)
        note(running, check.name, "works")
        return
    try:
        await check.run(subject)
    except (AssertionError, openai.APIError):
        note(running, check.name, f"lacks: {reason}")
    else:
        pytest.fail(f"{check.name} works on {running.name} after all: take it out of the recipe's `lacks` ({reason})")
