#!/bin/sh
# Give the page cache back before an engine loads: CUDA counts free pages alone on a machine whose GPU shares the host's
# memory, and what was read from disk stays in memory as cache. On the host, as root: sudo scripts/spark/flush-caches.sh
# (`sparkstack guard` does it by itself while an engine loads; scripts/spark/guard-service.sh installs that.)
set -eu
proc=${PROC:-/proc}

free_mib() {
    awk '$1 == "MemFree:" { print int($2 / 1024) }' "$proc/meminfo"
}

if [ ! -w "$proc/sys/vm/drop_caches" ]; then
    echo "flush-caches: $proc/sys/vm/drop_caches can't be written; run it as root, on the host: sudo $0" >&2
    exit 1
fi
before=$(free_mib)
sync
echo 3 >"$proc/sys/vm/drop_caches"
# One block of memory is wanted, not many small ones.
if [ -w "$proc/sys/vm/compact_memory" ]; then
    echo 1 >"$proc/sys/vm/compact_memory"
fi
echo "free memory: $before MiB before, $(free_mib) MiB after"
