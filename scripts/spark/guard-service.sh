#!/bin/sh
# The guard as a service of the host: while an engine loads it watches free memory and gives the page cache back.
# On the host of a Spark, as root, from the project's folder:
#     sudo scripts/spark/guard-service.sh install      (again after the folder has moved)
#     sudo scripts/spark/guard-service.sh status | remove
set -eu
unit=sparkstack-guard.service
units=${UNITS:-/etc/systemd/system}
root=$(cd "$(dirname "$0")/../.." && pwd)
command=${SPARKSTACK:-$root/.venv/bin/sparkstack}

fail() {
    echo "guard-service: $1" >&2
    exit 1
}

# The unit runs this folder's code as root: nobody else may be able to change it.
check_owner() {
    path=$1
    while [ "$path" != / ]; do
        case $(stat -c %A "$path") in
        ?????w????|????????w?)
            # A folder with the sticky bit, such as /tmp, lets nobody replace what is not theirs.
            case $(stat -c %A "$path") in
            *[tT]) ;;
            *) echo "guard-service: note: $path can be written by others than its owner; the guard runs code from there as root" >&2 ;;
            esac
            ;;
        esac
        path=$(dirname "$path")
    done
}

case ${1:-} in
install)
    command -v systemctl >/dev/null 2>&1 || fail "there is no systemd here; run it by hand: sudo $command guard"
    [ -w "$units" ] || fail "$units can't be written; run it as root: sudo $0 install"
    [ -x "$command" ] || fail "there is no $command yet; run \`make up\` first"
    check_owner "$root"
    text=$("$command" guard --print-unit) || fail "the unit can't be made"
    printf '%s\n' "$text" >"$units/$unit"
    chmod 644 "$units/$unit"
    systemctl daemon-reload
    systemctl enable --now "$unit"
    echo "$unit is installed and started; journalctl -u $unit shows what it does"
    ;;
remove)
    [ -w "$units" ] || fail "$units can't be written; run it as root: sudo $0 remove"
    systemctl disable --now "$unit" 2>/dev/null || true
    rm -f "$units/$unit"
    systemctl daemon-reload
    echo "$unit is removed"
    ;;
status)
    systemctl status --no-pager "$unit"
    ;;
*)
    fail "usage: $0 install | remove | status"
    ;;
esac
