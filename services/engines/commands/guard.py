"""`sparkstack guard`: the host's service that gives memory back while an engine loads."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from services.engines.loading.host_guard import HostGuard

GIB = 2**30


@click.command(short_help="on a Spark, as root: drop caches while an engine loads")
@click.option("--min-free-gib", default=8.0, show_default=True, type=click.FloatRange(0.5, 64), help="floor of MemFree")
@click.option(
    "--interval", "interval_s", default=1.0, show_default=True, type=click.FloatRange(0.1, 60), help="seconds"
)
@click.option("--always", is_flag=True, help="also while no engine of the stack loads")
@click.option("--once", is_flag=True, help="write out, drop and compact now, and exit")
@click.option("--print-unit", is_flag=True, help="print a systemd unit and exit")
@click.option("--proc", default="/proc", show_default=True, type=click.Path(path_type=Path), help="the host's /proc")
@click.option(
    "--marker",
    default="/run/sparkstack/loading",
    show_default=True,
    type=click.Path(path_type=Path),
    help="file that the engines service touches while an engine loads",
)
def guard(
    min_free_gib: float, interval_s: float, always: bool, once: bool, print_unit: bool, proc: Path, marker: Path
) -> None:
    """Drop the page cache and compact memory while an engine loads and MemFree is below the floor.

    For machines whose GPU shares the host's memory (DGX Spark): run it on the host, as root. It does nothing else,
    and nothing at all while no engine loads. `sparkstack guard --print-unit` prints what makes it a service.
    """
    from services.engines.loading.host_guard import HostGuard, NoRightsError, check_rights, relieve

    if print_unit:
        click.echo(unit(min_free_gib, interval_s), nl=False)
        return
    try:
        check_rights(proc)
        if once:
            relief = relieve(proc, flush=True)
            before, after = relief.before.free / GIB, relief.after.free / GIB
            click.echo(f"MemFree {before:.2f} GiB → {after:.2f} GiB in {relief.seconds:.1f} s")
            return
        make_folder(marker.parent)
        watch(HostGuard(int(min_free_gib * GIB), proc=proc, marker=marker, always=always), interval_s)
    except NoRightsError as error:
        raise click.ClickException(str(error)) from None


def watch(host_guard: "HostGuard", interval_s: float) -> None:
    """Look for ever."""
    import structlog

    from services.kit.logs import configure_logs

    configure_logs("guard", console=sys.stdout.isatty())
    log = structlog.get_logger("guard")
    log.info("guard.started", interval_s=interval_s)
    while True:
        relief = host_guard.look()
        if relief is not None:
            log.info(
                "guard.dropped_caches",
                free_before_gib=round(relief.before.free / GIB, 2),
                free_after_gib=round(relief.after.free / GIB, 2),
                available_gib=round(relief.after.available / GIB, 2),
                cache_before_gib=round(relief.before.page_cache / GIB, 2),
                largest_block_before_mib=relief.before.largest_free_block >> 20,
                largest_block_after_mib=relief.after.largest_free_block >> 20,
                seconds=round(relief.seconds, 2),
                helped=relief.helped,
            )
        time.sleep(interval_s)


def make_folder(folder: Path) -> None:
    """Make the marker's folder, where every user may touch a file of his own and remove nobody else's.

    Raises:
        click.ClickException
    """
    try:
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o1777)
    except OSError as error:
        raise click.ClickException(f"{folder} can't be made: {error.strerror}; run it as root") from None


UNIT = """\
# /etc/systemd/system/sparkstack-guard.service
# It runs the code of the folder below as root: nobody else should be able to write there.
[Unit]
Description=sparkstack guard: drops caches while an engine loads into unified memory
After=local-fs.target

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={folder}
Restart=always
RestartSec=1
# Who loads an engine touches a file there.
RuntimeDirectory=sparkstack
RuntimeDirectoryMode=1777
RuntimeDirectoryPreserve=yes
# It must live when others are killed for memory.
OOMScoreAdjust=-900
NoNewPrivileges=yes
PrivateNetwork=yes
ProtectSystem=strict
ProtectHome=read-only
# To read the folder above, wherever it is; writing to /proc/sys/vm needs root, and no capability.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH

[Install]
WantedBy=multi-user.target
"""


def unit(min_free_gib: float, interval_s: float) -> str:
    """Return a systemd unit that runs the guard with these settings from this installation."""
    import services

    folder = Path(services.__file__).resolve().parents[1]
    words = [sys.executable, "-m", "services.cli.main", "guard"]
    words += ["--min-free-gib", f"{min_free_gib:g}", "--interval", f"{interval_s:g}"]
    return UNIT.format(command=" ".join(_quoted(word) for word in words), folder=_specifiers(str(folder)))


def _quoted(word: str) -> str:
    escaped = _specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if escaped != word or " " in word else word


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")
