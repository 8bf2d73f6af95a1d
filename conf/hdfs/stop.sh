#!/usr/bin/env bash
# Stop the servers that start.sh started in a folder; what they store stays.
#
#   stop.sh DIR
set -euo pipefail

(($# == 1)) && [[ -d $1 ]] || { echo "usage: stop.sh DIR" >&2 && exit 1; }
dir=$(cd "$1" && pwd -P)

ours() { { tr '\0' '\n' <"/proc/$1/cmdline"; } 2>/dev/null | grep -qxF -- "-Dmarspipe.servers=$dir"; }

pids=()
for file in "$dir"/pid/*; do
    [[ -e $file ]] || continue
    pid=$(<"$file")
    # A number may by now belong to a stranger.
    if ours "$pid"; then kill "$pid" 2>/dev/null && pids+=("$pid"); fi
done
for ((tries = 50; tries > 0; tries--)); do
    alive=()
    for pid in "${pids[@]}"; do if ours "$pid"; then alive+=("$pid"); fi; done
    ((${#alive[@]})) || break
    sleep 0.2
done
for pid in "${alive[@]:-}"; do if [[ -n $pid ]] && ours "$pid"; then kill -9 "$pid"; fi; done
rm -f "$dir"/pid/*
