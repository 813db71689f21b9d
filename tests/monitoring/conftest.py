"""Prometheus and Alertmanager, from Debian's packages: unpacked beside the other peers, nothing is installed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import debian

Program = Callable[[str], Path]
_PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
_TEMPLATES = b"/usr/share/prometheus/alertmanager"


@pytest.fixture(scope="session")
def program() -> Program:
    """Return what finds a program by its name, and unpacks its package where it isn't there yet."""

    def find(name: str) -> Path:
        package = _PACKAGES[name]
        if debian.find(name, package) is None:
            problem = debian.unpack(package)
            if problem:
                pytest.skip(f"optional: no {name}, so {debian.LEFT_OUT[package]} ({problem})")
        path = debian.find(name, package)
        assert path is not None, f"{package} has no {name} any more"
        return Path(path)

    return find


@pytest.fixture(scope="session")
def alertmanager(program: Program, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return Alertmanager, and the folder to run it in.

    Debian's build opens its templates under /usr/share whatever it is told. One that was unpacked has them beside it:
    its path to them is made relative, to a copy, in as many bytes.
    """
    found = program("prometheus-alertmanager")
    unpacked = debian.place_of("prometheus-alertmanager")
    if unpacked not in found.parents:
        return found, Path("/")
    copy = tmp_path_factory.mktemp("alertmanager") / found.name
    copy.write_bytes(found.read_bytes().replace(_TEMPLATES, _TEMPLATES[1:].replace(b"/", b"//", 1)))
    copy.chmod(0o755)
    return copy, unpacked
