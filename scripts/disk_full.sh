#!/usr/bin/env bash
# A full disk: a node writes to a small ext4 image, a file takes the space, and the log what that leaves. Values must be
# refused as DiskFull, reads go on, the log must not fail; when the file is removed the node must serve again by itself;
# and everything that was acknowledged must be there after the next start.
# Usage: scripts/disk_full.sh [ROUNDS] [SEED]    (default 20 rounds, seed 1; about 10 seconds a round)
# Ends with 1 if a promise is broken, with 77 if this machine doesn't allow it (root, loop devices).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/disk_rig.sh

readonly IMAGE_MIB=256

rig_arguments "scripts/disk_full.sh [ROUNDS] [SEED]" 20 "$@"
need mkfs.ext4:e2fsprogs losetup:mount
rig_prepare disk-full rig_attach_plain

echo "| round | full, and room again | everything after the next start |"
echo "|---|---|---|"
good=0
for ((round = 1; round <= rounds; round++)); do
    make_image "$IMAGE_MIB"
    rm -f "$rig/ledger"
    rig_attach_plain
    place=(--dirs "$mount/node" --ledger "$rig/ledger" --seed $((seed + round)))
    status=0
    workload_start "${place[@]}" full --filler "$mount/filler"
    workload_end 180 || status=$?
    full="$(told)"
    # A run that failed has left it, and the next start wants room.
    rm -f "$mount/filler"
    rig_detach
    rig_attach_plain
    verdict="$("$workload" "${place[@]}" verify 2>"$rig/log.verify")" || status=1
    rig_detach
    echo "| $round | $full | $verdict |"
    if ((status == 0)); then good=$((good + 1)); fi
done
echo "disk full: $good of $rounds rounds kept every promise; seed $seed"
if ((good < rounds)); then
    echo "FAIL: $((rounds - good)) of $rounds rounds did not"
    exit 1
fi
