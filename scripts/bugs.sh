#!/usr/bin/env bash
# Plants one bug after the other (raft/src/planted.rs) and sees the simulator find each. Prints a table: which, after how
# many seeds, by what.
# Usage: scripts/bugs.sh [NUMBER,..] [A..B]    (default: all, each within seeds 0..2000; about a minute on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."

only=()
if [[ -n "${1:-}" ]]; then
    only=(--only "$1")
fi
# A build of its own: no other has a trace of the bugs in it.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg raftyard_planted"
exec cargo run -p raftyard-sim --release --locked --target-dir target/planted -- bugs --seeds "${2:-0..2000}" "${only[@]}"
