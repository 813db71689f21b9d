"""Where things are: the project's folder, its .env, its state."""

import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

import services
from services.stack import Service

SUPERVISOR = "supervisord"

# AF_UNIX addresses have 107 bytes (Linux; 103 on macOS); supervisord binds PATH.PID first.
_LONGEST_SOCKET_PATH = 103 - len(".4194304")


@dataclass(frozen=True)
class Home:
    """The folders and files of one stack.

    Args:
        code: the folder that holds the `services` package.
        root: the project's folder, with .env.
        state: what the stack writes, resolved.
    """

    code: Path
    root: Path
    state: Path

    def environment(self, service: Service) -> Path:
        """Return the folder of the Python environment that runs a service: this one, or one of its own."""
        return self.code / ".venvs" / service.environment if service.environment else Path(sys.prefix)

    @property
    def env_file(self) -> Path:
        """The user's variables, with the key."""
        return self.root / ".env"

    @property
    def logs(self) -> Path:
        """One file a service."""
        return self.state / "logs"

    @property
    def run(self) -> Path:
        """What is of use only while the stack runs."""
        return self.state / "run"

    @property
    def aliases(self) -> Path:
        """The names that `sparkstack promote` gives models."""
        return self.names / "aliases.json"

    @property
    def names(self) -> Path:
        """The folder of that file: the gateway's container sees it alone, and is another user."""
        return self.state / "names"

    @property
    def catalogue(self) -> Path:
        """What the gateway serves."""
        return self.state / "catalogue.json"

    @property
    def programs(self) -> Path:
        """Programs that services add to supervisord while it runs: one file each."""
        return self.run / "programs"

    @property
    def internal_key(self) -> Path:
        """The key that the stack's services show each other."""
        return self.state / "internal.key"

    @property
    def supervisor_config(self) -> Path:
        """What supervisord runs."""
        return self.state / "supervisord.conf"

    @property
    def stack_file(self) -> Path:
        """What the last `up` has started, and where."""
        return self.state / "stack.json"

    @property
    def socket(self) -> Path:
        """supervisord's control socket: in the state folder, or in a short private one where that is too long."""
        inside = self.run / "supervisor.sock"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"sparkstack-{os.getuid()}-{digest}" / "supervisor.sock"

    def log(self, service: str) -> Path:
        """Return a service's log file."""
        return self.logs / f"{service}.log"

    def mark(self, name: str) -> str:
        """Return the value of MARK for a service's processes."""
        return f"{self.state}:{name}"

    def make_folders(self) -> None:
        """Make the folders of the state; the state itself is for this user alone.

        Raises:
            click.ClickException: when one can't be made, or the socket's folder is somebody else's.
        """
        for folder in (self.state, self.logs, self.run, self.programs, self.names, self.socket.parent):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = folder.lstat()
                if folder == self.names:
                    folder.chmod(0o755)
            except OSError as error:
                raise click.ClickException(
                    f"{folder} can't be made: {error.strerror}; name a folder that can: SPARKSTACK_STATE=/path"
                ) from None
            if folder == self.socket.parent and (found.st_uid != os.getuid() or found.st_mode & 0o077):
                raise click.ClickException(f"{folder} must be yours alone (mode 700): remove it, and start again")
        before = self.state / self.aliases.name  # where the names lay before they had a folder, and in old backups
        if before.is_file() and not self.aliases.exists():
            before.rename(self.aliases)


def find_home() -> Home:
    """Return the folders of the stack that the environment names, this checkout's where it names none.

    Raises:
        click.ClickException: when SPARKSTACK_HOME is no folder.
    """
    code = _code_folder()
    root = _named_root() or code
    if not root.is_dir():
        raise click.ClickException(f"SPARKSTACK_HOME={root} is not a folder; make it, or name another")
    if root == code and not (root / "pyproject.toml").is_file():
        # Installed as a package: there is no project around the code.
        raise click.ClickException("name a folder for .env and state: SPARKSTACK_HOME=/path")
    state = os.environ.get("SPARKSTACK_STATE", "")
    # Resolved, so that each way to the folder finds the same processes by their mark.
    return Home(code, root, (Path(state).expanduser() if state else root / ".state").resolve())


def load_environment() -> None:
    """Put the variables of the project's .env into the environment, where there is one."""
    load_file((_named_root() or _code_folder()) / ".env")


def load_file(env_file: Path) -> None:
    """Put the variables of a file, where there is one, into the environment; what is set there already wins."""
    if env_file.is_file():
        from services.kit.settings import load_env_file

        load_env_file(env_file)


def _code_folder() -> Path:
    return Path(services.__file__).resolve().parents[1]


def _named_root() -> Path | None:
    named = os.environ.get("SPARKSTACK_HOME", "")
    return Path(named).expanduser().absolute() if named else None
