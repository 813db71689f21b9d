"""One suite of the wire contract, asked of every engine through the gateway."""

import pytest

pytest.register_assert_rewrite("tests.conformance.checks")
