"""What supervisord runs: put a program's environment in place, tie it to supervisord, become the program.

    python -m services.kit.launch FILE DIGEST

FILE holds the command and the environment, so that neither stands in supervisord's configuration, whose syntax can't
quote every value, nor in the process list. DIGEST only makes supervisord see that something has changed. Standard
library alone: each start of a program goes through here.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARK = "SPARKSTACK_UNIT"
"""Environment variable of every process that the stack starts: `STATE FOLDER:NAME`."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program."""
    launch = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tie_to_parent(supervisor_of(launch))
    if "starts_file" in launch:
        count_start(Path(launch["starts_file"]))
    command = launch["command"]
    os.execve(command[0], command, {**os.environ, **launch["environment"]})  # noqa: S606


def supervisor_of(launch: Mapping[str, Any]) -> int:
    """Return supervisord's pid: as it stands in the launch file, or in the pid file that this names.

    A file that is written for one start knows the pid; one that outlives supervisord knows only where it is written.
    """
    pid = launch.get("supervisor_pid")
    return int(pid or Path(launch["supervisor_pid_file"]).read_text(encoding="ascii"))


def tie_to_parent(supervisor_pid: int) -> None:
    """Have the kernel end this process, also after it has become another program, when supervisord dies.

    Linux alone can do this. Elsewhere, `sparkstack up` and `down` find what a dead supervisord has left.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # If it died before that call, there is another parent now, and nobody would end this process.
    if os.getppid() != supervisor_pid:
        sys.exit("launch: supervisord is gone")


def count_start(file: Path) -> None:
    """Add one to the number of times that this program was started."""
    try:
        count = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        count = 0
    file.write_text(str(count + 1), encoding="ascii")


if __name__ == "__main__":
    main()
