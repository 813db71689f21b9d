"""Make the project's environments: `python3 scripts/bootstrap.py embedded`.

This file parses on Python 3.6, so that an old Python gets a sentence instead of a traceback: it finds a
Python that fits and hands over to environments.py, which does the work. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 14)  # the pinned packages have wheels up to here
CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")

ADVICE = """\
sparkstack needs Python {oldest} to {newest}. This is Python {running} ({path}),
and no other was found on PATH.
  Debian 12 or later, Ubuntu 24.04 or later:  sudo apt-get install python3 python3-venv
  Ubuntu 22.04:                               sudo apt-get install python3.11 python3.11-venv
  macOS:                                      brew install python@3.13
If you have one elsewhere, name it:  make up PYTHON=/path/to/python3.12"""


def fits(version: tuple) -> bool:
    """Say whether the pinned packages can be installed for this version of Python."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def version_of(python: str) -> tuple:
    """Return the (major, minor) of an interpreter; () when it doesn't run, like a version manager's shim."""
    command = [python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"]
    try:
        reply = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=30)
        return tuple(int(part) for part in reply.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def find_python() -> str:
    """Return the path of the first fitting Python on PATH, "" when there is none."""
    for name in CANDIDATES:
        path = shutil.which(name)
        if path and fits(version_of(path)):
            return path
    return ""


def main() -> int:
    """Run environments.py with a Python that fits."""
    if os.name != "posix":
        print("sparkstack runs on Linux and macOS. On Windows, use it inside WSL2.", file=sys.stderr)
        return 1
    if fits(sys.version_info):
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import environments

        return environments.main(sys.argv[1:])
    python = find_python()
    if python:
        os.execv(python, [python, __file__, *sys.argv[1:]])  # noqa: S606
    words = {"oldest": "%d.%d" % OLDEST, "newest": "%d.%d" % NEWEST}
    running = sys.version.split()[0]
    print(ADVICE.format(running=running, path=sys.executable, **words), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
