"""Ask services how they are, over HTTP."""

from dataclasses import dataclass
from typing import Any

import httpx

PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Health:
    """A service's answer to a probe.

    Args:
        ready: it can do its work.
        waiting_for: what it is waiting for, or how it fails to answer; empty when ready.
    """

    ready: bool
    waiting_for: str = ""


def new_client(transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """Return a client for addresses of this machine: no proxy of the environment stands between."""
    return httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT_S, transport=transport)


def address(host: str, port: int) -> str:
    """Return the URL under which this machine reaches a service that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def probe(client: httpx.Client, url: str) -> Health:
    """Return what a health address answers."""
    try:
        response = client.get(url)
    except httpx.ConnectError:
        return Health(False, "does not listen yet")
    except httpx.TimeoutException:
        return Health(False, f"no answer within {PROBE_TIMEOUT_S:.0f} s")
    except httpx.TransportError as error:
        return Health(False, f"no answer: {error}")
    if response.status_code == 200:
        return Health(True)
    return Health(False, _reason(response))


def _reason(response: httpx.Response) -> str:
    return missing_checks(json_object(response)) or error_message(response)


def missing_checks(document: dict[str, Any]) -> str:
    """Return what a health page says is not well; empty where it doesn't say."""
    checks = document.get("checks")
    if not isinstance(checks, dict):
        return ""
    return "; ".join(f"{name}: {state}" for name, state in checks.items() if state != "ok")


def error_message(response: httpx.Response) -> str:
    """Return the message of an error envelope, the status where there is none."""
    error = json_object(response).get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return f"HTTP status {response.status_code}"


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the body's object; {} where it is something else."""
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


@dataclass(frozen=True)
class FirstToken:
    """What came of asking the default model for one token.

    Args:
        final: trying again would not help.
    """

    came: bool
    problem: str = ""
    final: bool = False


def ask_for_a_token(client: httpx.Client, gateway: str, key: str, timeout_s: float) -> FirstToken:
    """Ask the gateway's default model for one token."""
    question = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        response = client.post(
            f"{gateway}/v1/chat/completions",
            json=question,
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout_s,
        )
    except httpx.TransportError as error:
        return FirstToken(False, f"no answer: {error or type(error).__name__}")
    if response.status_code != 200:
        # 404: its models aren't discovered yet. 429 and 5xx pass. Any other refusal will be the same again.
        final = 400 <= response.status_code < 500 and response.status_code not in (404, 408, 429)
        return FirstToken(False, error_message(response), final)
    usage = json_object(response).get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if tokens:
        return FirstToken(True)
    return FirstToken(False, f"an answer without a token: {response.text[:200]}")
