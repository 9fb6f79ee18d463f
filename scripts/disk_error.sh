#!/usr/bin/env bash
# A failing disk: three nodes, the first on an ext4 image whose device begins to fail, in turn its writes (error filter)
# and its flushes (error filter below a cache). That node's log must fail and acknowledge nothing more, the other two
# must lead and serve, and the node must say in one line which file failed and what to do. When the disk is mended and
# the nodes are started again, everything that was acknowledged must be on all of them.
# Usage: scripts/disk_error.sh [ROUNDS] [SEED]    (default 20 rounds, seed 1; about 8 seconds a round)
# Ends with 1 if a promise is broken, with 77 if this machine doesn't allow it (root, loop devices, FUSE, nbdkit).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/disk_rig.sh

readonly IMAGE_MIB=512
# What the node must say: the file, what the system said, what to do, and where.
readonly LINE='log failed .*wal-0/segment-[0-9]*\.wal: .*Input/output error.*; see to the disk .* data_dir=.*/mount/node'

rig_arguments "scripts/disk_error.sh [ROUNDS] [SEED]" 20 "$@"
need nbdkit:nbdkit nbdfuse:libnbd-bin fusermount3:fuse3 mkfs.ext4:e2fsprogs losetup:mount
[[ -c /dev/fuse ]] || skip "there is no /dev/fuse"
rig_prepare disk-error rig_attach_nbdkit

# attach writes|flushes
attach() {
    local errors=("error-pwrite-rate=100%" "error-pwrite-file=$rig/trigger")
    if [[ "$1" == writes ]]; then
        rig_attach_nbdkit --filter=error file "$image" "${errors[@]}"
    else
        # Writes go to the cache and are well; what a flush writes from there fails, and the flush with it.
        rig_attach_nbdkit --filter=cache --filter=error file "$image" cache=writeback "${errors[@]}"
    fi
}

echo "| round | failing | while it fails | what the node said | everything after the next start |"
echo "|---|---|---|---|---|"
good=0
for ((round = 1; round <= rounds; round++)); do
    failing=writes
    if ((round % 2 == 0)); then failing=flushes; fi
    make_image "$IMAGE_MIB"
    rm -rf "$rig/ledger" "$rig/node-2" "$rig/node-3" "$rig/trigger"
    attach "$failing"
    place=(--dirs "$mount/node,$rig/node-2,$rig/node-3" --ledger "$rig/ledger" --seed $((seed + round)))
    status=0
    workload_start "${place[@]}" error --trigger "$rig/trigger"
    workload_end 180 || status=$?
    while_failing="$(told)"
    line="$(grep -E "$LINE" "$rig/log" | head -n 1 | sed 's/.*ERROR //')" || true
    if [[ -z "$line" ]]; then
        status=1
        line="FAIL: not this: $(grep 'log failed' "$rig/log" | head -n 1 | sed 's/.*ERROR //')"
    fi
    rm -f "$rig/trigger"
    rig_detach
    attach "$failing"
    verdict="$("$workload" "${place[@]}" verify 2>"$rig/log.verify")" || status=1
    rig_detach
    echo "| $round | $failing | $while_failing | $line | $verdict |"
    if ((status == 0)); then good=$((good + 1)); fi
done
echo "disk error: $good of $rounds rounds kept every promise; seed $seed"
if ((good < rounds)); then
    echo "FAIL: $((rounds - good)) of $rounds rounds did not"
    exit 1
fi
