#!/bin/sh
# Can containers use the GPU of this Spark? Looks and changes nothing; exit 1 where something has to be mended first.
# With --run IMAGE it also starts a container of that image and asks for its GPU:
#     scripts/spark/check-toolkit.sh --run vllm/vllm-openai:v0.28.0
set -u
proc=${PROC:-/proc}
cdi=${CDI:-/etc/cdi /var/run/cdi}
wrong=0

ok() { echo "ok    $1"; }
warn() { echo "warn  $1"; }
fail() {
    echo "fail  $1"
    wrong=1
}

version=$(grep -o -m 1 -E '[0-9]{3,}\.[0-9]+(\.[0-9]+)?' "$proc/driver/nvidia/version" 2>/dev/null | head -n 1)
case $version in
'') fail "NVIDIA's driver is not loaded; nvidia-smi says why" ;;
580.*) ok "NVIDIA's driver $version" ;;
*) warn "NVIDIA's driver $version: Sparks are run with DGX OS's own branch, 580" ;;
esac

if ! command -v docker >/dev/null 2>&1; then
    fail "there is no docker command"
elif ! runtimes=$(docker info --format '{{json .Runtimes}}' 2>&1); then
    fail "no engine answers docker: $runtimes"
else
    case $runtimes in
    *'"nvidia"'*) ok "Docker has the NVIDIA runtime" ;;
    *) fail "Docker has no NVIDIA runtime: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker" ;;
    esac
fi

if ! command -v nvidia-ctk >/dev/null 2>&1; then
    fail "nvidia-ctk is not installed (package nvidia-container-toolkit)"
else
    toolkit=$(nvidia-ctk --version 2>/dev/null | grep -o -m 1 -E '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
    files=''
    for folder in $cdi; do
        for file in "$folder"/nvidia*; do
            if [ -e "$file" ]; then files="$files $file"; fi
        done
    done
    if [ -z "$files" ]; then
        ok "NVIDIA's container toolkit $toolkit, CDI off"
    elif [ "$toolkit" = 1.19.0 ]; then
        warn "NVIDIA's container toolkit $toolkit with CDI on ($files ): without it is what was stable on Sparks"
    else
        warn "NVIDIA's container toolkit $toolkit with CDI on ($files ): reported to have frozen Sparks; 1.19.0 without CDI was stable"
    fi
fi

if [ "${1:-}" = --run ]; then
    if said=$(docker run --rm --gpus all --network none --entrypoint nvidia-smi "${2:?an image}" -L 2>&1); then
        ok "a container sees: $said"
    else
        fail "a container of $2 sees no GPU: $said"
    fi
fi
exit $wrong
