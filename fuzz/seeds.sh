#!/usr/bin/env bash
# Fills fuzz/corpus with the repository's own small files, one folder per target.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

corpus=fuzz/corpus
shape=0
mkdir -p "$corpus"/{rows,transcripts,template,settings,model_config,safetensors}
for file in tests/golden/batches/*.jsonl examples/quickstart/heldout.jsonl; do
    head -n 3 "$file" >"$corpus/rows/$(basename "$file")"
done
printf '{"prompt":"a","chosen":"b","rejected":"c"}\n{"prompt":[{"role":"user","content":"a"}],%s}\n' \
    '"chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]' >"$corpus/rows/kinds"
# One file for each of the shapes in docs/data.md, with the columns that objectives need beside; a list; a compressed file.
printf '[{"prompt":"a","chosen":"b","rejected":"c"},\n {"prompt":"d","chosen":"e","rejected":"f"}]' >"$corpus/rows/list"
gzip -c "$corpus/rows/list" >"$corpus/rows/gzip"
grep -E '^\{"(prompt|chosen|messages)' docs/data.md | while IFS= read -r row; do
    printf '%s\n' "$row" >"$corpus/rows/shape-$((++shape))"
done
printf '{"prompt":"a","completion":"b","label":true,"score":1,"advantages":[1,2],"old_logps":[-1,-2]}\n' >"$corpus/rows/completion"
printf '{"prompt":"a","chosen":"b","rejected":"c","reference_response":"d","soft_label":0.5,"score_chosen":1,"score_rejected":0,%s}\n' \
    '"chosen_weights":[1,0],"rejected_weights":[1,0],"prompt_embedding":[1],"ref_chosen_logps":-1' >"$corpus/rows/annotated"
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
