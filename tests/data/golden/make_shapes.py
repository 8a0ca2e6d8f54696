#!/usr/bin/env python3
"""Makes shapes.json beside it: for rows of every shape, the ids of prompt and answers and which of them are scored.

    pip install trl==1.16.0 transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6 torch
    python3 make_shapes.py          (after make_golden.py, whose folder and templates it uses)

What a row means is TRL's code: maybe_extract_prompt finds the prompt of a pair, apply_chat_template renders it; where the
project deliberately reads a row otherwise (HH transcripts, strings whose common prefix ends inside a word) the row is first
split by the few lines of Python below and then given to TRL as an explicit pair. What is scored of a conversation that goes
on is transformers' code: apply_chat_template(return_assistant_tokens_mask=True), over templates with generation tags.
"""

import json
import pathlib
import re

from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

HERE = pathlib.Path(__file__).parent
# llama3.jinja with the assistant's words and their end marked.
LLAMA3_MARKED = (
    "{% for message in messages %}{{ bos_token if loop.first else '' }}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


ASK, ANSWER = user("What is the capital of France?"), assistant("The capital of France is Paris.")
MORE, GOOD, BAD = user("And the dog?"), assistant(" Hello world "), assistant("The lazy dog.\n\nIt does not mind.")
HH = "\n\nHuman: What is the capital of France?\n\nAssistant: Paris.\n\nHuman: Human: or\nAssistant: what?"
TOOLS = [{"type": "function", "function": {"name": "jump", "parameters": {"over": "dog"}}}]
CALL = {"type": "function", "function": {"name": "jump", "arguments": {"over": "the lazy dog"}}}

# (templates, row)
ROWS = [
    (["llama3", "chatml"], {"chosen": [ASK, ANSWER, MORE, GOOD], "rejected": [ASK, ANSWER, MORE, BAD]}),
    (["llama3", "chatml"], {"prompt": ASK["content"], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}),
    (["llama3", "chatml"], {"chosen": [ASK, GOOD, MORE, ANSWER], "rejected": [ASK, BAD, MORE, GOOD]}),
    (["llama3", "chatml"], {"chosen": [ASK, ANSWER, MORE, GOOD], "rejected": [ASK, ANSWER, user("Hello"), BAD]}),
    (["llama3", "chatml"], {"prompt": [system("Be brief."), ASK], "chosen": [GOOD], "rejected": [BAD]}),
    (["llama3", "chatml"], {"prompt": [ASK], "chosen": [ANSWER, MORE, GOOD], "rejected": [BAD]}),
    (["llama3", "chatml"], {"messages": [system("Be brief."), ASK, ANSWER, MORE, BAD]}),
    (["llama3", "chatml"], {"messages": [ASK, GOOD]}),
    (["llama3", "chatml"], {"prompt": [ASK], "completion": [ANSWER]}),
    (["llama3", "chatml", None], {"chosen": HH + "\n\nAssistant: The dog.", "rejected": HH + "\n\nAssistant: The fox."}),
    (["llama3", "chatml", None], {"chosen": HH + "\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", "rejected": HH + "\n\nAssistant: d"}),
    ([None], {"prompt": "What is the capital of France?", "completion": " Paris."}),
    ([None], {"chosen": "The dog does not mind.", "rejected": "The dog jumps."}),
    ([None], {"chosen": "The capital of France", "rejected": "The cap does"}),
    (["tools"], {"messages": [ASK, assistant(None, tool_calls=[CALL]), {"role": "tool", "content": "ok"}, GOOD], "tools": TOOLS}),
    (
        ["tools"],
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "tools": json.dumps(TOOLS), "chat_template_kwargs": {"terse": True}},
    ),
]


def turns(text):
    """The turns of an HH transcript, consecutive ones of one role joined."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    assert pieces[0] == ""
    messages = []
    for name, words in zip(pieces[1::2], pieces[2::2]):
        role = {"Human": "user", "Assistant": "assistant"}[name]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = "\n\n".join(filter(None, [messages[-1]["content"], words.strip()]))
        else:
            messages.append({"role": role, "content": words.strip()})
    return messages


def is_transcript(value):
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def split_words(chosen, rejected):
    """A common prefix of two strings that ends in front of white space."""
    found = maybe_extract_prompt({"chosen": chosen, "rejected": rejected})["prompt"]
    words = re.match(r".*(?=\s)", chosen[: len(found) + 1], re.DOTALL)
    border = words.end() if words else 0
    return {"prompt": chosen[:border], "chosen": chosen[border:], "rejected": rejected[border:]}


def explicit(row):
    """The row as prompt and answers, by TRL's rule where it is one."""
    row = dict(row)
    if isinstance(row.get("tools"), str):
        row["tools"] = json.loads(row["tools"])
    if "messages" in row:
        first = next(i for i, message in enumerate(row["messages"]) if message["role"] == "assistant")
        return {**row, "prompt": row["messages"][:first], "chosen": row["messages"][first:]}
    if "completion" in row:
        return {**row, "chosen": row["completion"]}
    if is_transcript(row["chosen"]):
        row.update(chosen=turns(row["chosen"]), rejected=turns(row["rejected"]))
    elif "prompt" not in row and isinstance(row["chosen"], str):
        return {**row, **split_words(row["chosen"], row["rejected"])}
    return {**row, **maybe_extract_prompt({key: row[key] for key in ("prompt", "chosen", "rejected") if key in row})}


def source(name):
    return LLAMA3_MARKED if name == "llama3" else (HERE / "templates" / f"{name}.jinja").read_text()


def rendered(tokenizer, name, row, role):
    """Ids of prompt + answer, whether each is the assistant's, and the ids of the prompt by itself."""
    tokenizer.chat_template = source(name)
    more = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    whole = tokenizer.apply_chat_template(
        row["prompt"] + row[role], return_assistant_tokens_mask=True, return_dict=True, **more
    )
    answered = all(row[role][0]["role"] == "assistant" for role in ("chosen", "rejected") if role in row)
    prompt = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=answered, return_dict=False, **more
    )
    if name == "llama3":
        plain = (HERE / "templates" / "llama3.jinja").read_text()
        assert whole["input_ids"] == tokenizer.apply_chat_template(
            row["prompt"] + row[role], chat_template=plain, return_dict=False
        )
    if len(row[role]) == 1 and answered and name == "llama3":
        example = {"prompt": row["prompt"], "completion": row[role]}
        example = apply_chat_template(example, tokenizer, **more)
        assert tokenizer(example["prompt"], add_special_tokens=False)["input_ids"] == prompt
        assert tokenizer(example["completion"], add_special_tokens=False)["input_ids"] == whole["input_ids"][len(prompt) :]
    return whole["input_ids"], whole["assistant_masks"], prompt


def as_text(tokenizer, row, role):
    """The same of plain text and of transcripts without a template: BOS before, EOS after."""
    if isinstance(row["prompt"], str):
        prompt, parts = row["prompt"], [(row[role], True)]
    else:
        mark = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
        prompt = "".join(f"{mark[m['role']]} {m['content']}" for m in row["prompt"]) + mark["assistant"]
        parts = []
        for message in row[role]:
            if parts or message["role"] == "user":
                parts.append((mark[message["role"]], False))
            parts.append((f" {message['content']}", message["role"] == "assistant"))
    text = prompt + "".join(words for words, _ in parts)
    encoding = tokenizer(text, return_offsets_mapping=True)
    scored = [False] * len(prompt) + [flag for words, flag in parts for _ in words]
    masks = [int(any(scored[start:end])) for start, end in encoding["offset_mapping"]]
    ids = encoding["input_ids"]
    return ids + [tokenizer.eos_token_id], masks + [1], tokenizer(prompt)["input_ids"]


def case(tokenizer, name, row):
    split = explicit(row)
    answers, prompts = [], []
    for role in ("chosen", "rejected"):
        if role in split:
            make = (lambda: as_text(tokenizer, split, role)) if name is None else (lambda: rendered(tokenizer, name, split, role))
            ids, masks, prompt = make()
            # One answer after a generation prompt is scored to its end, what templates write after it included.
            if is_conversational(split) and len(split[role]) == 1:
                masks = [1 if position >= len(prompt) else 0 for position in range(len(ids))]
            answers.append({"role": role, "ids": ids, "scored": masks})
            prompts.append(prompt)
    border = len(prompts[0])
    while not all(answer["ids"][:border] == prompts[0][:border] for answer in answers):
        border -= 1
    for answer in answers:
        answer["ids"], answer["scored"] = answer["ids"][border:], answer["scored"][border:]
        if all(answer["scored"]):
            answer["scored"] = None
    return {"template": name, "row": row, "prompt": prompts[0][:border], "answers": answers}


def main():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "folder")
    cases = [case(tokenizer, name, row) for names, row in ROWS for name in names]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "shapes.json").write_text(f"[\n{lines}\n]\n")


main()
