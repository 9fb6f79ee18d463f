#!/usr/bin/env bash
# The figures of the first system: `raftyard bench` over concurrency, groups and value size, in interleaved rounds;
# prints the median of each figure over the rounds, with the floor of the same runs beside it.
# Usage: scripts/figures.sh [ROUNDS] [SECONDS]    (default 5 rounds of 3 s; about 12 minutes on two cores)
set -euo pipefail
cd "$(dirname "$0")/.."

rounds="${1:-5}"
seconds="${2:-3}"
if ! [[ "$rounds" =~ ^[1-9][0-9]*$ && "$seconds" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: scripts/figures.sh [ROUNDS] [SECONDS]; both are numbers from 1 on" >&2
    exit 2
fi
cargo build --release --locked
out=$(mktemp -d -p target)
trap 'rm -rf "$out"' EXIT

for round in $(seq "$rounds"); do
    for value in 128 1024; do
        for groups in 1 100 1000; do
            for concurrency in 1 64 1024; do
                echo "round $round of $rounds: $value B, $groups groups, concurrency $concurrency" >&2
                json="$out/$value-$groups-$concurrency-$round.json"
                target/release/raftyard bench --groups "$groups" --concurrency "$concurrency" --value-bytes "$value" \
                    --duration "${seconds}s" --seed "$round" --data-dir "$out/data" --json "$json" >"$out/log" 2>&1 ||
                    { cat "$out/log" >&2; exit 1; }
            done
        done
    done
done

# The n-th number that follows a key: the JSON has one number a line.
numbers() { grep -E "^ *\"$1\":" "$2" | sed -n "${3}p" | grep -oE '[0-9]+(\.[0-9]+)?' | tail -1; }
median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
of() { # key, occurrence, files
    local key=$1 nth=$2
    shift 2
    for file in "$@"; do numbers "$key" "$file" "$nth"; done | median
}

printf '%6s %6s %11s | %9s %8s %8s %8s %8s | %9s %9s %8s\n' \
    bytes groups concurrency ops/s 'p50 us' 'p99 us' 'cpu us' 'B/repl.' 'write p50' 'trip p50' 'p50/sum'
for value in 128 1024; do
    for groups in 1 100 1000; do
        for concurrency in 1 64 1024; do
            files=("$out/$value-$groups-$concurrency-"*.json)
            ops=$(of throughput_ops_per_s 1 "${files[@]}")
            # p50 and p99 stand three times: the operations', the durable write's, the round trip's.
            p50=$(of p50 1 "${files[@]}")
            p99=$(of p99 1 "${files[@]}")
            cpu=$(of cpu_us_per_op 1 "${files[@]}")
            memory=$(of rss_bytes_per_replica 1 "${files[@]}")
            write=$(of p50 2 "${files[@]}")
            trip=$(of p50 3 "${files[@]}")
            printf '%6d %6d %11d | %9.0f %8.0f %8.0f %8.1f %8.0f | %9.0f %9.0f %8.2f\n' "$value" "$groups" "$concurrency" \
                "$ops" "$p50" "$p99" "$cpu" "$memory" "$write" "$trip" \
                "$(awk -v a="$p50" -v b="$write" -v c="$trip" 'BEGIN {print a / (b + c)}')"
        done
    done
done
