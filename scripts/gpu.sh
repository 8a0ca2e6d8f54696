#!/usr/bin/env bash
# Tests and measures this program on a machine with a GPU that has neither cargo nor network.
#
#     scripts/gpu.sh --pack            builds, and puts program, tests, golden files and this script into target/gpu
#     target/gpu/gpu.sh --out DIR      there: runs everything, in under 8 minutes, into DIR/gpu.json and DIR/gpu.txt
#     target/gpu/gpu.sh --tiny --out DIR    the same at tiny sizes, for a machine whose libcuda is the stand-in of cuda-sim
#
# A part that fails or takes too long is recorded and does not stop the others; the exit status then is 1.
#
# Environment:
#     CARGO_TARGET_DIR     where --pack builds, and packs into
#     ASFT_PACK_PROFILE    cargo profile of --pack [release]
#     ASFT_PACK_PROGRAM, ASFT_PACK_TESTS    files that --pack takes instead of building: the program, test executables
#     ASFT_CUDA_LIBS       folders of libcublasLt and libnvrtc, where the loader does not find them
set -euo pipefail

# Test executables to pack, and which of their tests concern the GPU.
readonly tests=(ops)
readonly filter=cuda::
# What the 20 steps are taken on.
readonly checkpoint=gqa-llama3
readonly pairs=train12
# Bytes that target/gpu may have: 64 MiB is what such a machine takes. (A debug build, as the tests pack it, is half as large again as a release.)
readonly most_bytes=$((66 * 1000 * 1000))
# Seconds for everything; a part gets what is left at most.
readonly budget=460

say() { printf 'gpu.sh: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 2
}

# ---- packing -------------------------------------------------------------------------------------------------------

pack() {
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
    local target="${CARGO_TARGET_DIR:-target}" profile="${ASFT_PACK_PROFILE:-release}"
    local out="$target/gpu" program="${ASFT_PACK_PROGRAM:-}" executables="${ASFT_PACK_TESTS:-}" test
    if [[ -z "$program" ]]; then
        cargo build --profile "$profile" --bin asft
        program="$target/$([[ "$profile" == dev ]] && echo debug || echo "$profile")/asft"
    fi
    if [[ -z "$executables" ]]; then
        local flags=()
        for test in "${tests[@]}"; do flags+=(--test "$test"); done
        # Cargo says where it puts each executable: one line of JSON, with the path last but for the closing brace.
        executables="$(cargo test --profile "$profile" --no-run --message-format json "${flags[@]}" |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | grep -v '/asft$')"
    fi
    ! "$program" --version | grep -q 'sources only' ||
        say "built without NVRTC: the machine with the GPU needs libnvrtc to compile the kernels on first use"
    rm -rf -- "$out"
    mkdir -p -- "$out/tests" "$out/golden/batches"
    cp -- "$program" "$out/asft"
    for test in $executables; do
        # tests/ops-0123456789abcdef
        local name="${test##*/}"
        cp -- "$test" "$out/tests/${name%-*}"
    done
    for test in "${tests[@]}"; do
        [[ -x "$out/tests/$test" ]] || fail "cargo has built no test executable $test"
    done
    strip -- "$out/asft" "$out"/tests/*
    # A checkpoint as it is, its tensors too.
    mkdir -- "$out/golden/$checkpoint"
    cp -- tests/golden/checkpoints/"$checkpoint"/*.{json,safetensors} "$out/golden/$checkpoint/"
    cp -- "tests/golden/batches/$pairs.jsonl" "$out/golden/batches/"
    cp -- scripts/gpu.sh "$out/gpu.sh"
    local bytes
    bytes="$(du -sb -- "$out" | cut -f 1)"
    ((bytes <= most_bytes)) || fail "$out has $bytes bytes, more than $most_bytes"
    say "$out has $bytes bytes: copy it to the machine with the GPU and run gpu.sh --out DIR there"
}

# ---- records -------------------------------------------------------------------------------------------------------

# Text as the inside of a JSON string; control characters but tabs and newlines are dropped.
escaped() {
    tr -d '\000-\010\013-\037' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
}

# Lines of JSON as a list.
listed() { awk '/^\{/ { printf "%s%s", (n++ ? ",\n      " : ""), $0 }' "$1"; }

failed=0
# part NAME SECONDS COMMAND...: runs it and appends its record to $work/parts.
part() {
    local name="$1" seconds="$2" status=0 began=$SECONDS left
    shift 2
    left=$((budget - SECONDS))
    if ((left <= 0)); then
        say "$name: no time left"
        status=124
        : >"$work/stdout"
        echo "no time left" >"$work/stderr"
    else
        ((seconds <= left)) || seconds=$left
        say "$name"
        timeout --kill-after=5 "$seconds" "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    fi
    if ((status != 0)); then
        failed=1
        say "$name: exit status $status"
        tail -n 5 -- "$work/stderr" >&2
    fi
    cp -- "$work/stdout" "$work/$name.out"
    {
        printf '%s\n    {"name": "%s", "command": "%s", "exit": %d, "seconds": %d' "$comma" "$name" \
            "$(printf '%s' "$*" | escaped)" "$status" $((SECONDS - began))
        ((status == 0)) || printf ', "stderr": "%s"' "$(tail -n 20 -- "$work/stderr" | escaped)"
        grep -q '^{' "$work/stdout" || [[ ! -s "$work/stdout" ]] || printf ', "stdout": "%s"' "$(escaped <"$work/stdout")"
        printf ', "results": [%s]}' "$(listed "$work/stdout")"
    } >>"$work/parts"
    comma=,
    printf '%s %s\n' "$status" "$name" >>"$work/statuses"
}

# ---- the parts -----------------------------------------------------------------------------------------------------

# The kernel suite: its own report, and one line of JSON with the counts.
suite() {
    local test status=0
    for test in "${tests[@]}"; do
        local only=("$filter")
        if ((tiny)); then
            only=(swiglu_both_ways gather_and_scatter)
            lend_stand_in
        fi
        "$here/tests/$test" "${only[@]}" >"$work/suite" 2>&1 || status=$?
        cat -- "$work/suite" >&2
        sed -n "s/^test result: \([a-zA-Z]*\)\. \([0-9]*\) passed; \([0-9]*\) failed.*/{\"benchmark\": \"suite\", \"tests\": \
\"$test\", \"result\": \"\1\", \"passed\": \2, \"failed\": \3}/p" "$work/suite"
    done
    return "$status"
}

# The tests look for the stand-in beside themselves; it is the libcuda of the library path.
lend_stand_in() {
    local folder name
    while read -r -d : folder; do
        for name in libcuda.so.1 libcuda.so; do
            if [[ -e "$folder/$name" ]]; then
                ln -sf -- "$(readlink -f -- "$folder/$name")" "$here/tests/libcuda_sim.so"
                return
            fi
        done
    done <<<"${LD_LIBRARY_PATH:-}:"
    fail "--tiny is for the stand-in of cuda-sim, and there is no libcuda on LD_LIBRARY_PATH"
}

# Twenty ASFT steps: agreement DTYPE BOUND compares the losses with those of the CPU in f32.
agreement() {
    local dtype="$1" bound="$2"
    local common=(--model "$here/golden/$checkpoint" --data "$here/golden/batches/$pairs.jsonl" --batch-size 4
        --max-steps "$agreed_steps" --learning-rate 1e-3 --weight-decay 0.1 --lr-scheduler-type constant --save-steps 0)
    [[ -e "$work/cpu/metrics.jsonl" ]] || "$here/asft" -q train "${common[@]}" --device cpu --output "$work/cpu" >&2
    "$here/asft" -q train "${common[@]}" --device cuda --dtype "$dtype" --output "$work/$dtype" >&2
    # The losses side by side; relative distances.
    paste -- <(losses "$work/cpu") <(losses "$work/$dtype") | awk -v dtype="$dtype" -v bound="$bound" '
        NF == 2 { d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d; sum += d; n++ }
        END {
            agrees = n == '"$agreed_steps"' && worst <= bound
            printf "{\"benchmark\": \"agreement\", \"dtype\": \"%s\", \"steps\": %d, \"worst\": %.3g, \"mean\": %.3g, \"bound\": %g, \"agrees\": %s}\n",
                dtype, n, worst, (n ? sum / n : 0), bound, (agrees ? "true" : "false")
            exit !agrees
        }'
}

losses() { sed -n 's/.*"loss": *\([-0-9.e+]*\).*/\1/p' "$1/metrics.jsonl"; }

# One step benchmark: step SHAPE WORKLOAD OBJECTIVE ARGUMENTS...
step() {
    local shape="$1" workload="$2" objective="$3"
    shift 3
    part "step-$shape-$workload-$objective${suffix:-}" 90 "$here/asft" -q bench step --shape "$shape" --workload "$workload" \
        --objective "$objective" "$@" --json
}

parts() {
    part info 20 "$here/asft" info --json
    if command -v nvidia-smi >/dev/null; then
        part nvidia-smi 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    fi
    # `timeout` starts programs, not functions: those run in a copy of this script.
    part suite 150 bash "$here/gpu.sh" --part suite
    # f32 differs by the order of sums; bf16 by as much as 1.5 times PyTorch's bf16 run of such a checkpoint (1.6e-2).
    part agreement-f32 60 bash "$here/gpu.sh" --part agreement f32 1e-4
    part agreement-bf16 60 bash "$here/gpu.sh" --part agreement bf16 2.4e-2
    local objective shape
    if ((tiny)); then
        local small=(--pairs 1 --prompt 8 --response 8 --steps 1 --warmup 0 --device cuda)
        part kernels-tiny 60 "$here/asft" -q bench kernels --shape tiny --tokens 24 --prompt 8 --response 8 --device cuda \
            --rounds 1 --round-ms 1 --copy-size 1MB --square 64 --json
        step tiny even asft "${small[@]}"
        step tiny even dpo "${small[@]}"
        # The lengths of the table are too much for a simulator.
        step tiny ragged asft --pairs 1 --steps 1 --warmup 0 --device cpu
        suffix=-tokens step tiny even asft --tokens-per-step 25 "${small[@]:2}"
        return
    fi
    for shape in 1b 8b; do
        part "kernels-$shape" 60 "$here/asft" -q bench kernels --shape "$shape" --device cuda --json
    done
    for shape in 1b 3b 8b; do
        for objective in asft dpo; do
            step "$shape" even "$objective" --device cuda
            step "$shape" ragged "$objective" --device cuda
        done
    done
    for shape in 1b 3b 8b; do
        suffix=-64k step "$shape" even asft --tokens-per-step 64k --steps 3 --warmup 1 --device cuda
    done
}

# ---- the report ----------------------------------------------------------------------------------------------------

# The value of a key of a line of JSON, for awk.
readonly awk_value='
    function value(line, key,   found) {
        if (!match(line, "\"" key "\": *(\"[^\"]*\"|[^,}\\]]*)")) return ""
        found = substr(line, RSTART, RLENGTH)
        sub("^\"" key "\": *\"?", "", found); sub("\"$", "", found)
        return found == "null" ? "" : found
    }
    function gib(bytes) { return bytes == "" ? "" : sprintf("%.1f", bytes / 1073741824) }'

tables() {
    printf 'asft on %s, %s, commit %s\n' "$device" "$date" "$commit"
    printf '\nparts that failed: %s\n' "$(awk '$1 { printf "%s%s (%s)", (n++ ? ", " : ""), $2, $1 } END { if (!n) printf "none" }' "$work/statuses")"
    cat -- "$work"/suite*.out "$work"/agreement-*.out 2>/dev/null | awk "$awk_value"'
        value($0, "benchmark") == "suite" { printf "%s: %s, %s passed, %s failed\n", value($0, "tests"), value($0, "result"), value($0, "passed"), value($0, "failed") }
        value($0, "benchmark") == "agreement" { printf "%s steps, %s against the CPU: worst %s, mean %s (bound %s)\n", value($0, "steps"), value($0, "dtype"), value($0, "worst"), value($0, "mean"), value($0, "bound") }'
    printf '\n%-6s %-7s %-5s %6s %8s %10s %9s %10s %6s %9s %9s %5s %s\n' shape lengths goal pairs tokens step_s pairs/s tokens/s 'use %' 'peak GiB' 'plan GiB' parts recompute
    cat -- "$work"/step-*.out 2>/dev/null | awk "$awk_value"'
        value($0, "benchmark") == "step" {
            use = value($0, "utilisation"); peak = value($0, "device_peak_bytes")
            printf "%-6s %-7s %-5s %6d %8d %10.4f %9.3f %10.1f %6s %9s %9s %5d %s\n", value($0, "shape"), value($0, "workload"),
                value($0, "objective"), value($0, "pairs"), value($0, "tokens"), value($0, "step_s"), value($0, "pairs_per_s"),
                value($0, "tokens_per_s"), (use == "" ? "" : sprintf("%.1f", 100 * use)),
                gib(peak == "" ? value($0, "peak_rss_bytes") : peak), gib(value($0, "plan_bytes")), value($0, "micro_batches"), value($0, "recompute")
        }'
    cat -- "$work"/kernels-*.out 2>/dev/null | awk "$awk_value"'
        value($0, "benchmark") == "machine" {
            printf "\n%s, %s tokens, %s: copy %.1f GB/s, product %.2f TFLOP/s\n", value($0, "shape"), value($0, "tokens"), value($0, "dtype"), value($0, "copy_gb_per_s"), value($0, "product_tflops_per_s")
        }
        value($0, "benchmark") == "kernel" {
            copy = value($0, "bound") == "copy"
            printf "  %-24s %12.1f us %10.2f %-8s %5.1f%% of %s\n", value($0, "name"), 1e6 * value($0, "seconds"),
                value($0, copy ? "gb_per_s" : "tflops_per_s"), (copy ? "GB/s" : "TFLOP/s"), 100 * value($0, "share"), value($0, "bound")
        }
        value($0, "benchmark") == "head_ratio" { printf "  the head takes %.2f times as long as its products (target %s)\n", value($0, "head_over_products"), value($0, "target") }'
}

run() {
    mkdir -p -- "$out"
    out="$(cd -- "$out" && pwd)"
    work="$(mktemp -d)"
    export work
    trap 'rm -rf -- "$work"' EXIT
    : >"$work/parts"
    : >"$work/statuses"
    parts
    date="$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    commit="$(sed -n 's/.*"commit": *"\([^"]*\)".*/\1/p' "$work/info.out" | head -n 1)"
    # The one that the last step ran on, else what nvidia-smi lists.
    device="$(cat -- "$work"/kernels-*.out "$work"/step-*.out 2>/dev/null | sed -n 's/.*"device": *"\([^"]*\)".*/\1/p' | head -n 1)"
    {
        printf '{\n  "date": "%s",\n  "commit": "%s",\n  "device": "%s",\n  "tiny": %s,\n  "seconds": %d,\n  "parts": [' \
            "$date" "$commit" "$(printf '%s' "$device" | escaped)" "$( ((tiny)) && echo true || echo false)" "$SECONDS"
        cat -- "$work/parts"
        printf '\n  ]\n}\n'
    } >"$out/gpu.json"
    tables >"$out/gpu.txt"
    say "$out/gpu.json and $out/gpu.txt, $SECONDS s"
    return "$failed"
}

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
readonly here
mode=run
tiny="${GPU_SH_TINY:-0}"
out=
comma=
while (($# > 0)); do
    case "$1" in
    --pack) mode=pack ;;
    --tiny) tiny=1 ;;
    --out)
        (($# > 1)) || fail "--out needs a folder"
        out="$2"
        shift
        ;;
    --part)
        # One of the functions above as a program of its own.
        shift
        agreed_steps=$((tiny ? 2 : 20))
        "$@"
        exit
        ;;
    *) fail "unknown argument $1; --pack, or --out DIR with or without --tiny" ;;
    esac
    shift
done
export GPU_SH_TINY="$tiny"
if [[ "$mode" == pack ]]; then
    pack
else
    [[ -n "$out" ]] || fail "--out DIR says where the results go"
    run
fi
