#!/usr/bin/env python3
"""Makes text_metrics.json: BLEU by sacrebleu, ROUGE by rouge_score and stems by NLTK, of texts that are made up here.

    python3 -m venv venv
    venv/bin/pip install sacrebleu==2.6.0 rouge_score==0.1.2 nltk==3.10.4
    venv/bin/python tests/eval/golden/make_text_metrics.py [--data FILE.jsonl]

With --data also the figures, without the texts, of the last turns of a file of preference pairs (`chosen` and `rejected` as
whole transcripts), which a test compares where it finds that file.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

WORDS = """the a of to and in is that it for on with as was be at this by or from are an have not which their you one all
were would there been many some time people way day water work first year word other about like into use number long make
between under never same another while last might great old off come since against go few house around small place country
running happily nationality conditional hopefulness relational electricity adjustable defensible replacement adoption
communism angularities effective probate ceasing controlling rolled skies dying news innings tied flies enjoyment geology
apologies agreed plastered motoring sized hopping falling hissing fizzed failing filing radically vileness digitizers
sensibilities formalize triplicate goodness bowdlerize yyyes syzygy oy ion lion nation possibly carefully x ax ox bees
""".split()
ODD = ["naïve", "Zürich", "Ünïcödé", "北京", "東京タワー", "Привет", "мир", "İstanbul", "K2", "e\u0301", "👍🏽", "½", "١٢٣", "don't",
       "it's", "rock-'n'-roll", "3.14", "1,000,000", "10-20", "-5", "2024-11-22", "$9.99", "50%", "a.m.", "U.S.A.", "e.g.,",
       "C++", "#1", "@home", "user@example.com", "https://example.com/a?b=c&d=e", "&amp;", "&lt;b&gt;", "&quot;so&quot;",
       "<skipped>", "[note]", "{x}", "(y)", "~", "`code`", "^", "_", "\\", "/", "|", "...", "?!", "--", "—", "–", "“quoted”",
       "«bon»", "„gut“", "…", "\u00a0", "\t", "word-\nbreak", "two\nlines", "no.1", "1.", ".5", ",", "4,", "7-", "8-bit"]


def sentence(draw, length):
    words = [draw.choice(ODD) if draw.random() < 0.2 else draw.choice(WORDS) for _ in range(length)]
    words = [word.capitalize() if draw.random() < 0.15 else word for word in words]
    return " ".join(words) + draw.choice([".", "!", "?", "", " .", "\n", ":", "...", "  "])


def answered(draw, reference):
    """A text that shares some of the reference's words and order."""
    words = reference.split(" ")
    kind = draw.random()
    if kind < 0.1:
        return reference
    if kind < 0.2:
        return sentence(draw, draw.randrange(0, 20))
    words = [draw.choice(WORDS) if draw.random() < 0.3 else word for word in words if draw.random() < 0.85]
    if kind < 0.4 and len(words) > 3:
        cut = draw.randrange(1, len(words))
        words = words[cut:] + words[:cut]
    return " ".join(words)


def figures(pairs):
    """Of each pair and of the corpus, the answer first."""
    plain = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    stemmed = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = []
    for answer, reference in pairs:
        scores = [scorer.score(reference, answer) for scorer in (plain, stemmed)]
        rows.append([score[kind].fmeasure for score in scores for kind in ("rouge1", "rouge2", "rougeL")])
    answers, references = zip(*pairs)
    bleu = sacrebleu.corpus_bleu(list(answers), [list(references)])
    single = [sacrebleu.corpus_bleu([a], [[r]]).score for a, r in pairs]
    return {"bleu": bleu.score, "bleu_tokens": [bleu.sys_len, bleu.ref_len], "bleu_of_each": single, "rouge": rows}


def last_turns(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    turn = lambda text: text.rsplit("\n\nAssistant: ", 1)[-1]
    return [(turn(row["rejected"]), turn(row["chosen"])) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path)
    data = parser.parse_args().data
    draw = random.Random(20)
    references = [" ".join(sentence(draw, draw.randrange(1, 25)) for _ in range(draw.choice([1, 1, 2, 3])))
                  for _ in range(300)]
    pairs = [(answered(draw, reference), reference) for reference in references]
    pairs += [("", "the reference"), ("an answer", ""), ("", ""), ("the cat sat", "the cat sat"), ("a b c d e", "a b c d e"),
              (" .", "...")]
    tokens = Tokenizer13a()
    stemmer = PorterStemmer()
    suffixes = ["", "s", "es", "ed", "ing", "er", "ers", "ly", "ation", "ations", "ational", "tional", "izer", "ization",
                "alism", "iveness", "fulness", "ousness", "ality", "ivity", "bility", "ful", "fully", "ness", "ical",
                "ically", "icate", "ative", "alize", "able", "ible", "ably", "ement", "ment", "ant", "ent", "ently", "ance",
                "ence", "ency", "ancy", "ism", "ity", "ous", "ously", "ive", "ize", "ied", "ies", "y", "eed", "ee", "ll",
                "logy", "logi", "ion", "sion", "tion", "e", "ell", "izz", "at", "bl", "iz", "alli", "li", "eli"]
    stems = ["hop", "run", "cat", "fil", "fail", "happ", "sk", "tr", "rel", "form", "sens", "analog", "y", "bo", "ag", "s",
             "ar", "triv", "wow", "fix", "tray", "oy", "control", "electr", "2nd", "x86", "", "psych", "geo"]
    words = sorted({stem + suffix for stem in stems for suffix in suffixes if stem + suffix} | set(WORDS))
    made = {
        "made_by": "make_text_metrics.py",
        "pairs": pairs, **figures(pairs),
        "tokens_13a": [tokens(answer.rstrip()).split(" ") if tokens(answer.rstrip()) else [] for answer, _ in pairs],
        "stems": {word: stemmer.stem(word) for word in words},
    }
    if data:
        real = figures(last_turns(data))
        made["data"] = {"name": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
                        "bleu": real["bleu"], "rouge": real["rouge"]}
    out = Path(__file__).parent / "text_metrics.json"
    out.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
