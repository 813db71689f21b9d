"""Each direct dependency is documented with its reason, and nothing else is."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<why>[^|]*) \| (?P<weighed>[^|]*) \|$", re.MULTILINE)


def direct_dependencies() -> set[str]:
    """Return the names that pyproject.toml and `requirements/*.in` ask for."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    lines = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for more in (*project["optional-dependencies"].values(), *pyproject["dependency-groups"].values()):
        lines += more
    for path in (ROOT / "requirements").glob("*.in"):
        lines += [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(Requirement(line).name) for line in lines} - {project["name"]}


def documented() -> list[re.Match[str]]:
    return list(ROW.finditer((ROOT / "docs/dependencies.md").read_text()))


def test_the_document_lists_the_direct_dependencies_and_no_others() -> None:
    assert {row["name"] for row in documented()} == direct_dependencies()


def test_no_dependency_is_documented_twice() -> None:
    names = [row["name"] for row in documented()]
    assert len(names) == len(set(names))


def test_each_row_gives_a_reason_and_what_was_weighed() -> None:
    assert [row["name"] for row in documented() if not (row["why"].strip() and row["weighed"].strip())] == []
