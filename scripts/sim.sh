#!/usr/bin/env bash
# The long simulation: whole nodes under faults, seed after seed, until a promise is broken or the seeds are through.
# Usage: scripts/sim.sh [A..B] [MINUTES]    (default 0..50000, as long as it takes; about 10 minutes on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."

seeds="${1:-0..50000}"
minutes=()
if [[ $# -gt 1 ]]; then
    minutes=(--minutes "$2")
fi
exec cargo run -p raftyard-sim --release --locked -- sim --seeds "$seeds" "${minutes[@]}"
