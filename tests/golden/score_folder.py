#!/usr/bin/env python3
"""Scores a Hugging Face folder with transformers, as `asft score --tokens` does, and compares the two.

    venv/bin/python tests/golden/score_folder.py DIR PAIRS.jsonl                     # prints one JSON line per row
    venv/bin/python tests/golden/score_folder.py DIR PAIRS.jsonl --compare OUT.jsonl # OUT: asft score's --output

For a check that a folder which asft wrote means the same to transformers. PAIRS holds pre-tokenised pairs
(prompt_input_ids, chosen_input_ids, rejected_input_ids). The environment is that of make_golden.py. The folder is loaded
through AutoModelForCausalLM, which also proves that config.json names the right class; weights are widened
exactly, and the arithmetic is float64 (`--float32`: transformers' own, unpatched).
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
import transformers
from make_golden import precision, score
from transformers import AutoModelForCausalLM


def score_folder(folder, pairs, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad(), precision(dtype):
        for index, pair in enumerate(pairs):
            scores = score(model, [pair])
            row = {"row": index}
            for side, name in enumerate(("chosen", "rejected")):
                first = len(pair["prompt_input_ids"]) - 1
                tokens = len(pair[f"{name}_input_ids"])
                row[name] = {
                    "logp": scores["seq_sum"][side].item(),
                    "mean_logp": scores["seq_mean"][side].item(),
                    "tokens": tokens,
                    "token_logps": scores["token_logps_all"][side, first : first + tokens].tolist(),
                }
            yield row


def compare(ours, theirs):
    """The largest differences between two lists of rows."""
    assert len(ours) == len(theirs), f"{len(ours)} rows here, {len(theirs)} there"
    worst = {"logp": 0.0, "mean_logp": 0.0, "token_logps": 0.0}
    for a, b in zip(ours, theirs):
        assert "skipped" not in b, f"asft skipped row {b['row']}: {b['skipped']}"
        for side in ("chosen", "rejected"):
            assert a["row"] == b["row"] and a[side]["tokens"] == b[side]["tokens"], f"row {a['row']}: {side}: other tokens"
            for key in ("logp", "mean_logp"):
                assert math.isfinite(b[side][key]), f"row {a['row']}: {side}: {key} is {b[side][key]}"
                worst[key] = max(worst[key], abs(a[side][key] - b[side][key]))
            for x, y in zip(a[side]["token_logps"], b[side].get("token_logps", a[side]["token_logps"]), strict=True):
                worst["token_logps"] = max(worst["token_logps"], abs(x - y))
    if not all("token_logps" in b["chosen"] for b in theirs):
        worst["token_logps"] = None  # asft score was run without --tokens
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--float32", action="store_true")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    pairs = [json.loads(line) for line in args.pairs.read_text().splitlines()]
    rows = list(score_folder(args.folder, pairs, torch.float32 if args.float32 else torch.float64))
    if args.compare:
        theirs = [json.loads(line) for line in args.compare.read_text().splitlines()]
        print(f"{len(rows)} pairs; largest absolute difference: {json.dumps(compare(rows, theirs))}")
    else:
        for row in rows:
            json.dump(row, sys.stdout)
            print()


if __name__ == "__main__":
    main()
