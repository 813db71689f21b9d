"""Read pip's configuration and say it in uv's variables: uv does not read it, but users' mirrors are there.

Source: pip's "Configuration" page (environment over site over user over global; `[install]` over `[global]`)
and uv's "Environment variables" page.
"""

import ast
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

# pip's option → the variables that say the same to uv and to the libraries under it.
ONE_TO_ONE = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "proxy": ("HTTPS_PROXY", "HTTP_PROXY"),
    "extra-index-url": ("UV_INDEX",),
    "find-links": ("UV_FIND_LINKS",),
}
MORE_PLACES = ("extra-index-url", "find-links")
UV_OWN_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
LINE = re.compile(r"^(?P<section>[^.]+)\.(?P<option>[^=]+)=(?P<value>.*)$")


def read_pip_options(pip: list[str]) -> dict[str, str]:
    """Return pip's options in force, by option name; {} when pip can't tell."""
    try:
        reply = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_pip_options(reply.stdout)


def parse_pip_options(listing: str) -> dict[str, str]:
    """Return the options of a `pip config list`, the stronger section winning."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        match = LINE.match(line)
        if match and match["section"] in sections:
            option = match["option"].strip(".")
            sections[match["section"]][option] = str(ast.literal_eval(match["value"]))
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_variables(options: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add for uv. What the user has set for uv already wins."""
    found: dict[str, str] = {}
    own_indexes = any(environ.get(name) for name in UV_OWN_INDEXES)
    for option, variables in ONE_TO_ONE.items():
        value = _for_uv(option, options.get(option, ""))
        if value and not (own_indexes and variables[0] in UV_OWN_INDEXES):
            found.update(dict.fromkeys(variables, value))
    if "SSL_CERT_FILE" not in found and environ.get("REQUESTS_CA_BUNDLE"):
        found["SSL_CERT_FILE"] = environ["REQUESTS_CA_BUNDLE"]  # pip reads it, uv doesn't
    if "UV_INDEX" in found:
        # pip looks at every index and takes what fits best; uv would stop at the first that knows the name.
        # The locks' hashes decide what is accepted, so nothing can slip in by a name.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    found["UV_SYSTEM_CERTS"] = "1"  # the machine's certificates, as pip uses them
    return {name: value for name, value in found.items() if not (environ.get(name) or environ.get(name.lower()))}


def wants_no_index(options: Mapping[str, str]) -> bool:
    """Say whether pip is told to look at `find-links` alone."""
    return options.get("no-index", "").lower() in ("1", "true", "yes", "on")


def _for_uv(option: str, value: str) -> str:
    if option in ("timeout", "default-timeout"):
        return str(max(30, int(value))) if value.isdigit() else ""
    if option == "find-links":
        return ",".join(filter(_is_there, value.split()))  # uv fails on a missing folder, pip goes on
    if option == "extra-index-url":
        return " ".join(filter(_is_there, value.split()))
    if option in ("cert", "client-cert"):
        return str(Path(value).expanduser()) if value else ""
    return " ".join(value.split())


def _is_there(place: str) -> bool:
    if "://" in place and not place.startswith("file://"):
        return True
    return Path(unquote(place.removeprefix("file://"))).expanduser().exists()
