# shellcheck shell=bash
# A disk that can be broken: an ext4 image on a loop device, for scripts/power_loss.sh, disk_full.sh and disk_error.sh,
# which source this. Everything it makes is below $rig. Nothing stays mounted, attached or running when the script ends,
# and no file where it did not fail.
#
#   rig_attach_nbdkit    ext4 at $mount - loop device - file of nbdfuse - nbdkit with its filters - $image
#   rig_attach_plain     ext4 at $mount - loop device - $image

# What a script ends with when this machine doesn't allow what it needs.
readonly SKIPPED=77

rig=""
image=""
mount=""
workload=""
seed=""
rounds=""
nbdkit_pid=""
nbdfuse_pid=""
loop=""
socket_dir=""
drawn=0

skip() {
    echo "skipped: $*"
    exit "$SKIPPED"
}

# Reads ROUNDS and SEED. rig_arguments USAGE DEFAULT_ROUNDS [ARGUMENT..]
rig_arguments() {
    local usage="$1" default="$2"
    rounds="${3:-$default}"
    seed="${4:-1}"
    if ! [[ "$rounds" =~ ^[1-9][0-9]*$ && "$seed" =~ ^[0-9]+$ && $# -le 4 ]]; then
        echo "usage: $usage" >&2
        exit 2
    fi
    # The same seed makes the same choices; what the machine makes of the moments is its own.
    RANDOM=$((seed % 32768))
}

# shellcheck disable=SC2034 # Those who source this use it.
# Sets drawn to a number below its argument. Not by an output, for a subshell would draw from numbers of its own.
draw() {
    drawn=$(((RANDOM * 32768 + RANDOM) % $1))
}

seconds_of_ms() {
    printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
}

# Installs what is missing of the named commands: need COMMAND:PACKAGE..
need() {
    local item missing=()
    [[ "$(id -u)" == 0 ]] || skip "mounting an image needs root"
    for item in "$@"; do
        command -v "${item%%:*}" >/dev/null || missing+=("${item##*:}")
    done
    if ((${#missing[@]})); then
        command -v apt-get >/dev/null || skip "these packages are missing, and there is no apt-get: ${missing[*]}"
        echo "installing ${missing[*]}"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null 2>&1 ||
            skip "these packages can't be installed: ${missing[*]}"
    fi
}

# Builds the workload, makes the place for everything, and tries whether this machine allows it.
# rig_prepare NAME rig_attach_plain|rig_attach_nbdkit
rig_prepare() {
    cargo build --quiet --release --locked -p raftyard-disk
    workload="${CARGO_TARGET_DIR:-target}/release/raftyard-disk"
    mkdir -p "${CARGO_TARGET_DIR:-target}/tmp"
    rig="$(mktemp -d "$(realpath "${CARGO_TARGET_DIR:-target}/tmp")/$1.XXXXXX")"
    image="$rig/image"
    mount="$rig/mount"
    mkdir "$mount" "$rig/fuse"
    # A socket's path must be short.
    socket_dir="$(mktemp -d)"
    ulimit -c 0
    trap rig_end EXIT
    trap 'exit 130' INT TERM
    make_image 16
    case "$2" in
        rig_attach_nbdkit) rig_attach_nbdkit file "$image" ;;
        rig_attach_plain) rig_attach_plain ;;
    esac
    rig_detach
}

# An empty file system. make_image MIB
make_image() {
    rm -f "$image"
    truncate -s "$1M" "$image"
    # No blocks kept for root, so that full means full. Nothing is left to be made later, by a thread of the kernel.
    mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0 "$image"
}

wait_until() {
    local step
    for ((step = 0; step < 1000; step++)); do
        if "$@"; then return 0; fi
        sleep 0.01
    done
    echo "the rig: waited 10 s for: $*" >&2
    return 1
}

# The image by way of nbdkit. rig_attach_nbdkit NBDKIT_ARGUMENT..
rig_attach_nbdkit() {
    local socket="$socket_dir/nbd"
    rm -f "$socket" "$rig/nbdfuse.pid"
    # The cache of its filter is an unlinked file in TMPDIR: gone with the process.
    TMPDIR="$rig" nbdkit --foreground --unix "$socket" "$@" >>"$rig/nbdkit.log" 2>&1 &
    nbdkit_pid=$!
    wait_until test -S "$socket" 2>/dev/null || skip "nbdkit does not start here: $(tail -n 1 "$rig/nbdkit.log")"
    nbdfuse --pidfile "$rig/nbdfuse.pid" "$rig/fuse/disk" --unix "$socket" >>"$rig/nbdfuse.log" 2>&1 &
    nbdfuse_pid=$!
    # It aborts when its server dies; the shell need not tell.
    disown "$nbdfuse_pid"
    wait_until test -s "$rig/nbdfuse.pid" 2>/dev/null || skip "nbdfuse does not start here: $(tail -n 1 "$rig/nbdfuse.log")"
    rig_mount "$rig/fuse/disk"
}

# The image itself.
rig_attach_plain() {
    rig_mount "$image"
}

rig_mount() {
    local error
    loop="$(losetup --find --show "$1" 2>"$rig/error")" || skip "no loop device can be set up: $(head -n 1 "$rig/error")"
    error="$(mount -t ext4 "$loop" "$mount" 2>&1)" || skip "an image can't be mounted: ${error%%$'\n'*}"
}

# The moment of the power loss: what nbdkit had not written is gone, and every request fails from now on.
rig_lose_power() {
    kill -KILL "$nbdkit_pid"
    wait "$nbdkit_pid" 2>/dev/null || true
    nbdkit_pid=""
}

# Takes everything down from the top, whatever state it is in. Waits for nothing that is dead.
rig_detach() {
    if mountpoint -q "$mount"; then
        wait_until umount "$mount" || umount --lazy "$mount"
    fi
    if [[ -n "$loop" ]]; then
        losetup --detach "$loop" || true
        # Detaching is lazy: whoever attaches next must not meet it.
        wait_until loop_is_free
        loop=""
    fi
    if [[ -n "$nbdfuse_pid" ]]; then
        # When its server died it may be gone already, and its mount not.
        fusermount3 -u "$rig/fuse" 2>/dev/null || umount --lazy "$rig/fuse" 2>/dev/null || true
        wait_until process_is_gone "$nbdfuse_pid" || true
        nbdfuse_pid=""
    fi
    if [[ -n "$nbdkit_pid" ]]; then
        kill "$nbdkit_pid"
        wait "$nbdkit_pid" 2>/dev/null || true
        nbdkit_pid=""
    fi
}

process_is_gone() {
    ! kill -0 "$1" 2>/dev/null
}

loop_is_free() {
    [[ ! -e "/sys/block/${loop##*/}/loop" ]]
}

workload_pid=""

# Runs the workload beside the script, its output in $rig/told: workload_start ARGUMENT..
workload_start() {
    "$workload" "$@" >"$rig/told" 2>"$rig/log" &
    workload_pid=$!
}

# Its exit status, when it ends by itself within so many seconds; otherwise it is killed. workload_end SECONDS
workload_end() {
    local pid="$workload_pid" step status=0
    for ((step = 0; step < $1 * 20; step++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null && echo "FAIL: the workload did not end by itself in $1 s" >>"$rig/told"
    wait "$pid" 2>/dev/null || status=$?
    workload_pid=""
    return "$status"
}

# The last line of what the workload said.
told() {
    tail -n 1 "$rig/told"
}

rig_end() {
    local status=$?
    trap - EXIT
    set +e
    if [[ -n "$workload_pid" ]]; then
        kill -KILL "$workload_pid" 2>/dev/null
        wait "$workload_pid" 2>/dev/null
    fi
    rig_detach
    if ((status == 1)); then
        echo "what is left of it is in $rig"
    else
        rm -rf "$rig"
    fi
    rm -rf "$socket_dir"
    exit "$status"
}
