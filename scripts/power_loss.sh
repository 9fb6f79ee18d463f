#!/usr/bin/env bash
# Power loss on a real ext4: a node writes to an image whose unflushed writes are held by nbdkit; nbdkit is killed at any
# moment, which loses them; the image is mounted again, and everything that was acknowledged must be in it. Then a
# control with durability off, which must lose some, or the rig proves nothing.
# Usage: scripts/power_loss.sh [ROUNDS] [SEED]    (default 60 rounds, seed 1; about 3 seconds a round)
# Ends with 1 if a promise is broken, with 77 if this machine doesn't allow it (root, loop devices, FUSE, nbdkit).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/disk_rig.sh

# Rounds until everything starts from nothing again.
readonly ROUNDS_A_DIRECTORY=10
readonly CONTROL_ROUNDS=5
# The image, and the latest moment of the loss after the start.
readonly IMAGE_MIB=512
readonly LOSS_MS_MAX=2500

rig_arguments "scripts/power_loss.sh [ROUNDS] [SEED]" 60 "$@"
need nbdkit:nbdkit nbdfuse:libnbd-bin fusermount3:fuse3 mkfs.ext4:e2fsprogs losetup:mount
[[ -c /dev/fuse ]] || skip "there is no /dev/fuse"
rig_prepare power-loss rig_attach_nbdkit

attach() {
    # Unflushed writes stay in its cache and are lost with it. A flush that is cut short has written some of its blocks.
    # Its cache-max-size is not for us: nbdkit 1.32 drops unflushed blocks for it, and answers the next flush with success.
    rig_attach_nbdkit --filter=cache file "$image" cache=writeback "cache-min-block-size=$block"
}

# One power loss, and what was left. Sets: verdict (the verifier's line), kept (0: all of it). lose RUN AFTER_MS ARGUMENT..
lose() {
    local run="$1" after_ms="$2" status=0
    shift 2
    attach
    workload_start --dirs "$mount/node" --ledger "$rig/ledger" --run "$run" --seed "$((seed + run))" "$@" load
    sleep "$(seconds_of_ms "$after_ms")"
    rig_lose_power
    # It ends by itself when its log has failed, or didn't open.
    workload_end 20 || status=$?
    rig_detach
    # Where the loss met it before it served it may say that it could not start, which is 1. More is a crash or a hang.
    if ((status > 1)) || { ((status == 1)) && grep -q '^serving' "$rig/told"; }; then
        verdict="$(told)"
        kept=1
        return
    fi
    attach
    kept=0
    verdict="$("$workload" --dirs "$mount/node" --ledger "$rig/ledger" "$@" verify 2>"$rig/log")" || kept=1
    rig_detach
}

# Sets acknowledged to how many were, since it was last asked.
count_acknowledged() {
    local now
    now=$(wc -l <"$rig/ledger")
    acknowledged=$((now - acknowledged_before))
    acknowledged_before=$now
}

fresh() {
    make_image "$IMAGE_MIB"
    : >"$rig/ledger"
    acknowledged_before=0
}

block=64K
echo "| round | loss after ms | blocks of | how | acknowledged | verdict |"
echo "|---|---|---|---|---|---|"
total=0
for ((round = 1; round <= rounds; round++)); do
    (((round - 1) % ROUNDS_A_DIRECTORY)) || fresh
    draw 2
    block=$((4 << (4 * drawn)))K
    draw 4
    how=(--depth $((1 + drawn)))
    draw 2
    if ((drawn)); then how+=(--linked-sync); fi
    draw "$LOSS_MS_MAX"
    after_ms=$drawn
    lose "$round" "$after_ms" "${how[@]}"
    count_acknowledged
    total=$((total + acknowledged))
    echo "| $round | $after_ms | $block | ${how[*]} | $acknowledged | $verdict |"
    if ((kept != 0)); then
        echo "FAIL: round $round of $rounds lost what was acknowledged; seed $seed"
        exit 1
    fi
done
if ((total == 0)); then
    echo "FAIL: nothing was acknowledged in $rounds rounds: nothing is proved"
    exit 1
fi

lossy=0
for ((round = 1; round <= CONTROL_ROUNDS; round++)); do
    fresh
    block=64K
    # Large segments: the making of one flushes the disk, and what was written before with it.
    draw "$LOSS_MS_MAX"
    after_ms=$((1000 + drawn))
    lose "$round" "$after_ms" --durability-none --segment-bytes $((64 << 20))
    count_acknowledged
    echo "| control $round | $after_ms | $block | --durability-none | $acknowledged | $verdict |"
    # A loss at the very end of a flush loses nothing: not every round must, but one.
    lost="$(sed -n 's/.*lost=\([0-9]*\).*/\1/p' <<<"$verdict")"
    if ((${lost:-0} > 0)); then lossy=$((lossy + 1)); fi
done
if ((lossy == 0)); then
    echo "FAIL: the control, with durability off, lost nothing: the rig proves nothing"
    exit 1
fi
echo "power loss: $rounds of $rounds rounds kept all $total acknowledged values;" \
    "without durability $lossy of $CONTROL_ROUNDS lost some; seed $seed"
