#!/usr/bin/env bash
# Sets up what the tests need and runs all of them. docs/testing.md says more.
#
#     ./test.sh --setup      only sets up
#     ./test.sh [ARGS...]    sets up, builds the workspace, runs `cargo test` with ARGS
#
# Environment:
#     CARGO_TARGET_DIR       where cargo builds; NVRTC and CUDA's headers go to ${CARGO_TARGET_DIR:-target}/nvrtc
#     ASFT_REQUIRE_NVRTC=1   missing NVRTC, and every test skipped for want of it, is a failure
#     PYTHON                 the Python 3 (with pip) that downloads the wheels; default: python3
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

readonly target="${CARGO_TARGET_DIR:-target}"
readonly python="${PYTHON:-python3}"
readonly wheels=scripts/nvrtc-wheels.txt
readonly nvrtc="$target/nvrtc"
# A copy of the list of wheels, written last: where it equals the list, the folder is complete and current.
readonly stamp="$nvrtc/asft-wheels.txt"
stage=

say() { printf 'test.sh: %s\n' "$*" >&2; }
required() { [[ "${ASFT_REQUIRE_NVRTC:-}" == 1 ]]; }
clean_up() { [[ -z "$stage" ]] || rm -rf -- "$stage"; }
trap clean_up EXIT

# Prints why the wheels cannot be used here, and fails; succeeds silently where they can.
supported() {
    local system
    system="$(uname -s) $(uname -m)"
    if [[ "$system" != "Linux x86_64" ]]; then
        echo "the pinned wheels are for Linux x86_64, this is $system"
    elif ! command -v "$python" >/dev/null; then
        echo "no $python"
    elif ! "$python" -m pip --version >/dev/null 2>&1; then
        echo "$python has no pip"
    else
        return 0
    fi
    return 1
}

# Downloads the wheels, checks their hashes and unpacks them into $stage/nvrtc.
fetch() {
    # The two variables let pip run outside a virtual environment, and never ask, whatever its configuration says.
    PIP_REQUIRE_VIRTUALENV=false PIP_NO_INPUT=1 "$python" -m pip download --disable-pip-version-check --quiet --no-deps \
        --only-binary :all: --require-hashes --requirement "$wheels" --dest "$stage/wheels" &&
        mkdir -- "$stage/nvrtc" || return 1
    local wheel
    for wheel in "$stage"/wheels/*.whl; do
        "$python" -m zipfile -e "$wheel" "$stage/nvrtc" || return 1
    done
    cp -- "$wheels" "$stage/nvrtc/${stamp##*/}"
}

# Puts NVRTC and the headers into $nvrtc unless they are there. Where they cannot be had it says so in one line and goes on,
# or fails if they are required.
set_up() {
    if cmp -s -- "$wheels" "$stamp"; then
        return 0
    fi
    local reason
    if reason="$(supported)"; then
        mkdir -p -- "$target"
        stage="$(mktemp -d -- "$target/nvrtc-setup.XXXXXX")"
        say "downloading NVRTC and CUDA's headers (93 MB) into $nvrtc"
        if fetch >"$stage/log" 2>&1 </dev/null; then
            rm -rf -- "$nvrtc"
            mv -- "$stage/nvrtc" "$nvrtc"
            # The build script looks again.
            touch -c -- build.rs
            return 0
        fi
        reason="$(grep -m 1 '^ERROR' "$stage/log" || tail -n 1 "$stage/log")"
    fi
    say "no NVRTC, what needs it is skipped: $reason"
    if required; then
        say "failing, because ASFT_REQUIRE_NVRTC=1"
        return 1
    fi
}

# Sorts the arguments of `cargo test`: into $build those that decide what is built, so that the build before the tests is
# the tests' own, and into $scope the whole workspace unless they name packages (cargo ignores --package beside --workspace).
build=()
scope=(--workspace)
sort_arguments() {
    local argument previous=
    for argument in "$@"; do
        case "$argument" in
        --) break ;;
        -p* | --package | --package=*) scope=() ;;
        -r | --release | --locked | --offline | --frozen | --profile=* | --target=*) build+=("$argument") ;;
        esac
        case "$previous" in
        --profile | --target) build+=("$previous" "$argument") ;;
        esac
        previous="$argument"
    done
}

# One closing line: how many tests were skipped, for want of what. Reads the lines `skipped: TEST: NEED: WHY`.
report_skips() {
    if [[ ! -s "$1" ]]; then
        say "no test was skipped"
        return 0
    fi
    sort -- "$1" >&2
    awk -F ': ' '
        !($3 in count) { needs[++n] = $3; why[$3] = substr($0, length($1 $2 $3) + 7) }
        { count[$3]++ }
        END {
            printf "test.sh: skipped %d %s:", NR, (NR == 1 ? "test" : "tests")
            for (i = 1; i <= n; i++) {
                printf "%s %d for want of %s (%s)", (i > 1 ? "," : ""), count[needs[i]], needs[i], why[needs[i]]
            }
            print ""
        }' "$1" >&2
    if required && grep -q '^skipped: [^ ]*: NVRTC: ' -- "$1"; then
        say "failing, because ASFT_REQUIRE_NVRTC=1"
        return 1
    fi
}

run_tests() {
    if ! command -v cargo >/dev/null; then
        say "no cargo on the path; https://rustup.rs installs it"
        return 1
    fi
    local status=0 log="$target/skipped-tests.log"
    sort_arguments "$@"
    mkdir -p -- "$target"
    : >"$log"
    ASFT_SKIP_LOG="$(cd -- "$target" && pwd)/${log##*/}"
    export ASFT_SKIP_LOG
    # `cargo test` alone does not build the library of cuda-sim that the tests put in the place of libcuda.
    # (An empty array is an unset variable to the bash 3.2 of macOS, hence the `+`.)
    cargo build --workspace ${build[@]+"${build[@]}"}
    cargo test ${scope[@]+"${scope[@]}"} --no-fail-fast "$@" || status=$?
    report_skips "$log" || status=1
    return "$status"
}

if [[ "${1:-}" == --setup ]]; then
    if (($# > 1)); then
        say "--setup takes no further arguments"
        exit 2
    fi
    set_up
    if [[ -e "$stamp" ]]; then
        say "NVRTC and CUDA's headers are in $nvrtc"
    fi
else
    set_up
    run_tests "$@"
fi
