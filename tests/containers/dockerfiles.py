"""What a Dockerfile says, as far as tests ask."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "scripts"))
try:
    import images
finally:
    sys.path.remove(str(ROOT / "scripts"))

IMAGES = {image.name: image for image in images.images()}
"""The stack's own images, by name."""
_LOCK = re.compile(r"source=requirements/([a-z-]+)\.lock,")
_INSTRUCTION = re.compile(r"^(?P<name>[A-Z]+)\s+(?P<rest>.*)$", re.DOTALL)


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The words of its JSON form, such as those of CMD."""
        found = json.loads(self.rest[self.rest.index("[") :])
        assert isinstance(found, list)
        return found


def instructions(path: Path) -> list[Instruction]:
    """Return a Dockerfile's instructions, without its comments."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [_INSTRUCTION.match(line) for line in joined.splitlines() if line.strip()]
    assert all(found), f"{path}: a line is no instruction"
    return [Instruction(match["name"], " ".join(match["rest"].split())) for match in found if match]


def last(path: Path, name: str) -> Instruction:
    """Return the instruction of this name that counts: the last one."""
    return [each for each in instructions(path) if each.name == name][-1]


def locks_of(path: Path) -> set[str]:
    """Return the names of the locks that a Dockerfile installs from."""
    return set(_LOCK.findall(path.read_text(encoding="utf-8")))
