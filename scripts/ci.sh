#!/usr/bin/env bash
# The whole gate: format, lints, tests, documentation, and the builds that must stay possible.
# Usage: scripts/ci.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo "== $*"
    "$@"
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo test --workspace --locked
# Every bit of a small log flipped, every cut of it: too slow without optimisation, where a sample is taken.
step cargo test --release -p raftyard-storage --test damage --locked
# Whole nodes under faults, and bugs that they must be caught with.
step cargo run --release -p raftyard-sim --locked -- sim --seeds 0..5000
step bash scripts/bugs.sh 1,2,3,4,5,6,7,9,10,12,20,23,26,29,30,40 0..2000
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --locked
# The synchronous core, without the executor that drives it.
step cargo build -p raftyard-runtime --no-default-features --locked
# The library as another program links it, without the command line's crates.
step cargo build -p raftyard --lib --no-default-features --locked
tree=$(cargo tree -p raftyard --no-default-features --edges normal --prefix none --locked)
for crate in clap indicatif hdrhistogram serde_json tracing-subscriber raft raft-engine slog; do
    if grep -q "^$crate " <<<"$tree"; then
        echo "the library without its command line pulls in $crate" >&2
        exit 1
    fi
done
echo "== all passed"
