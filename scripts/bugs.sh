#!/usr/bin/env bash
# Plants one bug after the other (raft/src/planted.rs) and sees the simulator find each. Prints a table: which, after how
# many seeds, by what. Those that no simulated node can show, 29 and 30, the random schedules of a group must find.
# Usage: scripts/bugs.sh [NUMBER,..] [A..B]    (default: all, each within seeds 0..2000; about a minute on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."

# A build of its own: no other has a trace of the bugs in it.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg raftyard_planted"

simulated="$(tr ',' '\n' <<<"${1:-}" | grep -vxE '29|30' | paste -sd, || true)"
if [[ "$simulated" != "${1:-}" || -z "${1:-}" ]]; then
    cargo test -p raftyard-raft --release --locked --target-dir target/planted --test protocol -- --nocapture \
        planted_bugs_of_limits_are_found 2>&1 | grep -E "is found|is not found|^test |^error"
fi
if [[ -z "$simulated" && -n "${1:-}" ]]; then
    exit
fi
only=()
if [[ -n "$simulated" ]]; then
    only=(--only "$simulated")
fi
exec cargo run -p raftyard-sim --release --locked --target-dir target/planted -- bugs --seeds "${2:-0..2000}" "${only[@]}"
