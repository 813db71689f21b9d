import json

from services.kit.errors import AppError, RateLimited, all_errors


def test_the_envelope_is_openais() -> None:
    error = RateLimited("too many", param="model", retry_after_s=1.2)
    assert json.loads(error.body()) == {
        "error": {"message": "too many", "type": "rate_limit_error", "param": "model", "code": "rate_limited"}
    }
    assert (b"retry-after", b"2") in error.headers()


def test_every_code_is_used_once_and_explained() -> None:
    kinds = all_errors()
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
    assert all(kind.__doc__ and kind.__doc__ != AppError.__doc__ for kind in kinds)
