#!/usr/bin/env bash
# The kill -9 campaign: three node processes under load, killed one, two and three at a time.
# Usage: scripts/kill.sh [ROUNDS]    (default 200; the tests run 20)
set -euo pipefail
cd "$(dirname "$0")/.."

rounds="${1:-200}"
if ! [[ "$rounds" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/kill.sh [ROUNDS]; ROUNDS is a number from 1 on, not '$rounds'" >&2
    exit 2
fi
RAFTYARD_KILL_ROUNDS="$rounds" exec cargo test --release --test kill -- \
    --exact --nocapture --test-threads=1 nothing_acknowledged_is_lost_when_processes_are_killed
