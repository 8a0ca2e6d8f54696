#!/usr/bin/env bash
# Fills fuzz/corpus with the repository's own small files, one folder per target.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

corpus=fuzz/corpus
mkdir -p "$corpus"/{rows,transcripts,template,settings,model_config,safetensors}
for file in tests/golden/batches/*.jsonl examples/quickstart/heldout.jsonl; do
    head -n 3 "$file" >"$corpus/rows/$(basename "$file")"
done
printf '{"prompt":"a","chosen":"b","rejected":"c"}\n{"prompt":[{"role":"user","content":"a"}],%s}\n' \
    '"chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]' >"$corpus/rows/kinds"
printf '\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\0\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e' \
    >"$corpus/transcripts/later"
printf '\n\nHuman: a\n\nAssistant: b\0\n\nHuman: a\n\nHuman: b\n\nAssistant: c' >"$corpus/transcripts/twice"
printf '[["user","a"],["assistant","b"]]' >"$corpus/template/messages"
printf '[["user","a"]]\0{%% for m in messages %%}{{ m.content }}{%% endfor %%}' >"$corpus/template/own"
printf '[["user","a"]]\0{%% generation %%}{{ messages[0].content | tojson }}{%% endgeneration %%}' \
    >"$corpus/template/generation"
cp examples/*.toml "$corpus/settings/"
printf 'model = "m"\ndata = "d"\nobjective = "dpo"\nbeta = 0.1\neval_split = 0.1\nmax_steps = 3\nwarmup_ratio = 0.1\n' \
    >"$corpus/settings/some"
for folder in tests/golden/checkpoints/*/; do
    cp "$folder/config.json" "$corpus/model_config/$(basename "$folder").json"
done
# Headers alone: weights of no elements keep them consistent and small.
printf '\x50\0\0\0\0\0\0\0%-80s' '{"a":{"dtype":"F32","shape":[0,2],"data_offsets":[0,0]}}' >"$corpus/safetensors/empty"
printf '\x78\0\0\0\0\0\0\0%-120s12345678' \
    '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}' >"$corpus/safetensors/bf16"
