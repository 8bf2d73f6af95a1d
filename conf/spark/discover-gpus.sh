#!/usr/bin/env bash
# Say which GPUs an executor has, in the form that Spark wants: {"name": "gpu", "addresses": ["0", "1"]}
set -euo pipefail

if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    # CUDA then counts only the devices named, from 0.
    IFS=, read -ra devices <<<"$CUDA_VISIBLE_DEVICES"
    indices=("${!devices[@]}")
else
    mapfile -t indices < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi
printf -v list '"%s", ' "${indices[@]}"
((${#indices[@]})) || list=', '
printf '{"name": "gpu", "addresses": [%s]}\n' "${list%, }"
