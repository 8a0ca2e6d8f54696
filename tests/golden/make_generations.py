#!/usr/bin/env python3
"""Makes generations.json and sampling.json: what Hugging Face transformers continues prompts with, and which tokens its
logits processors leave.

    venv/bin/python tests/golden/make_generations.py [--oracle DIR]

(the environment of make_golden.py). Greedy continuations of 256 tokens, end tokens ignored, with and without a repetition
penalty, of every checkpoint in this folder, and with --oracle of those in DIR/checkpoints, which a test compares where
it finds them. Each is computed in float64 token by token, and with `generate` in float32, which must agree; prompts are
drawn until the two best logits are never closer than MARGIN, so that rounding cannot change the answer.

The processors are those that `generate` puts into its LogitsProcessorList, in its order, taken from it and not listed here.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, RepetitionPenaltyLogitsProcessor

from make_golden import float64_model, load

NEW_TOKENS = 256
MARGIN = 1e-4
PENALTIES = [1.0, 1.3]


def continued(model, prompt, penalty):
    """256 tokens and the smallest gap between the two best logits; None where it is below MARGIN."""
    ids, gap, cache, new = list(prompt), math.inf, None, prompt
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    with torch.no_grad(), float64_model():
        for _ in range(NEW_TOKENS):
            out = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = processor(torch.tensor([ids]), out.logits[:, -1])[0].topk(2)
            gap = min(gap, (best.values[0] - best.values[1]).item())
            if gap < MARGIN:
                return None
            ids.append(best.indices[0].item())
            new = ids[-1:]
    return ids[len(prompt):], gap


def generations(folder, origin):
    exact, plain = load(folder, torch.float64), load(folder, torch.float32)
    plain.generation_config = GenerationConfig()
    draw = random.Random(folder.name)
    entries = []
    for penalty in PENALTIES:
        found = 0
        for _ in range(200):
            prompt = [draw.randrange(exact.config.vocab_size) for _ in range(draw.choice([1, 7, 40, 150]))]
            answer = continued(exact, prompt, penalty)
            if answer is None:
                continue
            # A mask of its own, or a 0 of the prompt would count as padding.
            hf = plain.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                                max_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=penalty,
                                pad_token_id=0)[0].tolist()
            assert hf == prompt + answer[0], folder
            entries.append({"origin": origin, "checkpoint": folder.name, "repetition_penalty": penalty,
                            "prompt": prompt, "continuation": answer[0], "smallest_logit_gap": answer[1]})
            found += 1
            if found == 2:
                break
        assert found == 2, f"{folder}: {found} prompts without a tie"
    print(folder.name, [len(e["prompt"]) for e in entries])
    return entries


SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 1e-9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.95},
]


def sampling():
    """For each of SETTINGS: random logits, tokens so far, and what the processors make of both; null where they forbid."""
    generator = torch.Generator().manual_seed(5)
    holder = load(Path(__file__).parent / "checkpoints" / "gqa-llama3", torch.float32)
    cases = []
    for settings in SETTINGS:
        for vocabulary in (50, 300):
            logits = 3 * torch.randn(vocabulary, generator=generator)
            # Eighths, so that there are ties at the edges that the processors draw.
            logits = logits.mul(8).round().div(8) if vocabulary == 50 and "top_p" not in settings else logits
            seen = torch.randint(0, vocabulary, (1, 12), generator=generator)
            config = GenerationConfig(do_sample=True, **{"top_k": 0, **settings})
            processors = holder._get_logits_processor(
                generation_config=config, input_ids_seq_length=12, encoder_input_ids=None,
                prefix_allowed_tokens_fn=None, logits_processor=transformers.LogitsProcessorList())
            processed = processors(seen, logits[None].clone())[0]
            cases.append({
                "settings": settings, "names": [type(p).__name__ for p in processors], "logits": logits.tolist(),
                "seen": seen[0].tolist(),
                "processed": [None if x == -math.inf else x for x in processed.tolist()]})
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--oracle", type=Path)
    oracle = parser.parse_args().oracle
    out = Path(__file__).parent
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    folders = [(folder, "golden") for folder in sorted((out / "checkpoints").iterdir())]
    if oracle:
        folders += [(folder, "oracle") for folder in sorted((oracle / "checkpoints").iterdir())]
    cases = [json.dumps(case) for case in sampling()]
    (out / "sampling.json").write_text("[\n" + ",\n".join(cases) + "\n]\n")
    entries = []
    for folder, origin in folders:
        entries += [json.dumps(entry) for entry in generations(folder, origin)]
        (out / "generations.json").write_text("[\n" + ",\n".join(entries) + "\n]\n")


if __name__ == "__main__":
    main()
