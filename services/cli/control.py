"""`sparkstack load|unload`: ask the engines service to load or unload a model."""

import time
from typing import Any

import click
import httpx

from services.cli.home import Home, find_home
from services.cli.models import SERVING, engines_client, read_models
from services.cli.probes import error_message, json_object
from services.cli.progress import Progress

_POLL_S = 0.3
_NOT_LOADED = ("stopped", "failed", "missing")


class NotLoadedError(click.ClickException):
    """The model does not fit, or its engine does not start."""

    exit_code = 3


@click.command()
@click.argument("model")
@click.option("--pin/--no-pin", default=None, help="a pinned model is never unloaded for another")
@click.option("--wait/--no-wait", default=True, show_default=True, help="until it is ready")
def load(model: str, *, pin: bool | None, wait: bool) -> None:
    """Load MODEL on purpose: it stays, also when nobody uses it, until another needs its memory.

    Exits with 3 where it doesn't fit, with the sum.
    """
    home = find_home()
    body = {"wait": False} if pin is None else {"wait": False, "pin": pin}
    document = _post(home, f"/models/{model}/load", body)
    if wait:
        _wait_until_ready(home, document["id"])
    else:
        click.echo(f"{document['id']}: {document['state']}; `sparkstack status` shows how far it is")


@click.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="at once: requests under way are cut off, a load is stopped")
def unload(model: str, *, force: bool) -> None:
    """Unload MODEL, by default when the requests that it works on have ended."""
    document = _post(find_home(), f"/models/{model}/unload", {"force": force})
    if document["state"] in _NOT_LOADED:
        click.echo(f"{document['id']} is not loaded ({document['state']})")
        return
    busy = f"; {document['in_flight']} requests end first" if document["in_flight"] else ""
    click.echo(f"{document['id']}: is unloaded{busy}")


def _post(home: Home, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with engines_client(home) as client:
        if client is None:
            raise click.ClickException("nothing is running here; `make up` starts it")
        try:
            response = client.post(path, json=body, timeout=30)
        except httpx.TransportError as error:
            raise click.ClickException(
                f"the engines service at {client.base_url} does not answer: {error}; see `sparkstack status`"
            ) from None
    if response.status_code == 503:
        raise NotLoadedError(error_message(response))
    if response.status_code != 200:
        raise click.ClickException(error_message(response))
    return json_object(response)


def _wait_until_ready(home: Home, model_id: str) -> None:
    progress = Progress()
    with engines_client(home) as client:
        while True:
            model = next((known for known in read_models(client) if known.id == model_id), None)
            if model is None:
                raise click.ClickException("the engines service does not answer any more; see `sparkstack status`")
            if model.state in SERVING:
                where = {True: " on the GPU", False: " on the CPU", None: ""}[model.on_gpu]
                progress.say(f"{model_id} is ready{where} after {progress.seconds:.1f} s, at {model.address}")
                return
            if model.state not in ("queued", "loading", "unloading"):
                progress.clear()
                is_state = "can't be loaded" if model.state == "missing" else f"is {model.state}"
                raise NotLoadedError(f"{model_id} {is_state}: {model.note or 'unloaded meanwhile'}")
            progress.waiting(f"{model_id}: {model.state}{f', {model.note}' if model.note else ''}")
            time.sleep(_POLL_S)
