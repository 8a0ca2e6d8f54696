#!/usr/bin/env python3
"""Makes the golden files beside it with Hugging Face transformers, so that the tests compare with code nobody here wrote.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
    python3 make_golden.py

- folder/: a byte-level BPE of 420 tokens in the layout of a Llama-3 folder, trained on the lines below.
- templates/*.jinja: written by hand (inputs, not made here).
- cases.json: for each template and conversation, the text and the ids of apply_chat_template, or the words it raises;
  texts with their ids; preference rows with prompt, chosen and rejected ids by TRL's rule (common token prefix).
"""

import datetime
import json
import pathlib

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _alias_reasoning_fields, _compile_jinja_template

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "What is the capital of France? The capital of France is Paris.",
    "Reverse the words: one two three. three two one",
    "I'm sorry, I can't help with that; we'll see, they've said it's 2024 and 12345.",
    "def main():\n    print('hello world')\n\n\nmain()",
    "Hello Hello Hello assistant user system Assistant: User: Hello",
] * 4
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_folder():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420 - len(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bos = SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    folder = HERE / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    names = {"bos_token": bos, "eos_token": "<|eot_id|>"}
    config = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    config["chat_template"] = (HERE / "templates" / "llama3.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CONVERSATIONS = [
    [user("What is the capital of France?")],
    [user("What is the capital of France?"), assistant("Paris.")],
    [system("Be brief & <kind>."), user("  Hello\n"), assistant("\n Hi! "), user("'Bye' \"you\" → é 🦙")],
    [user("\x1c\x1f separators \u00a0\u2003\x85 are space \x1e"), assistant("\u200b not this one\u200b")],
    [user("<|eot_id|> written in the data <|im_end|>"), assistant("a\\b\t\x07\x7f\u2028")],
    [user("one,two,,three"), assistant("STOP here"), user("not shown by torture"), assistant("nor this")],
    [user("with fields", name="Ann", score=[1, 2.5, 1e16, 1e-5, -0.0, 10**19, None, True], nested={"b": {}, "a": []})],
    [assistant("first"), user("second")],
    [user("twice"), user("in a row")],
    [user(""), assistant("")],
    [user("{{ 1 + 1 }} {% if x %}"), assistant("{# no #}")],
]

# (template, messages, variables); "date" is what strftime_now gives, the others are the template's.
DAY = "2025-03-09"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number"}, "é": [1.0, None]}}}]
DOCUMENTS = [{"title": "One", "text": "the dog"}, {"title": "Two", "text": "the fox"}]
PARTS = [{"type": "text", "text": " The dog "}, {"type": "text", "text": "and the fox. "}]
VARIABLES = [
    ("dated", [user("Hello")], {"date": DAY}),
    ("dated", [system("Be brief."), user("Hello"), assistant("Hi!")], {"date": DAY, "tools": TOOLS}),
    ("dated", [user("Hello")], {"date": DAY, "date_string": "26 July 2024"}),
    ("variables", [user("Hello")], {}),
    ("variables", [user("Hello")], {"date": DAY, "tools": [], "enable_thinking": False}),
    ("variables", [user("Hello")], {"tools": TOOLS, "documents": DOCUMENTS, "enable_thinking": True, "bos_token": "B"}),
    ("variables", [user("Hello"), assistant("4", thinking="two and two", name=None)], {"date": DAY}),
    ("variables", [user("Hello"), assistant("4", reasoning="two and two", tool_calls=None)], {}),
    ("built-in llama3", [user(PARTS), assistant(PARTS)], {}),
    ("built-in chatml", [user(PARTS), assistant(PARTS)], {}),
    ("built-in llama3", [user([*PARTS, {"type": "image"}])], {}),
    ("built-in llama3", [user("Hello"), assistant("", tool_calls=[{"name": "add"}])], {}),
    ("built-in chatml", [user("Hello"), assistant("", tool_calls=[{"name": "add"}])], {}),
]

TEXTS = [
    "",
    " ",
    "Hello",
    " Hello world",
    "  two  spaces ",
    "\n\n\n tabs\t\t\r\nand lines\r\n",
    "I'm we'll THEY'VE 1234567",
    "é ü 漢字 🦙 \u200d",
    "<|begin_of_text|>Hello<|eot_id|>",
    "<|begin_of_text|",
    "def main():\n    print('hello world')",
]

# (template or None for plain text, prompt, chosen, rejected)
ROWS = [
    (None, "What is the capital of France?", " Paris.", " The dog."),
    (None, "What is the capital of France? ", "Paris.", "The dog."),
    (None, "", "Hello", "world"),
    (None, "<|begin_of_text|>Hello", " world<|eot_id|>", " world"),
    (None, "Hello", "Hello", "hello"),
    ("llama3", [user("Hello")], [assistant("Hi!")], [assistant(" Go away. ")]),
    ("llama3", [system("Be brief."), user("Hello")], [assistant("Hi!"), user("And?"), assistant("Ok")], [assistant("x")]),
    ("chatml", [user("Hello")], [assistant("The quick brown fox")], [assistant("The dog")]),
    ("merging", [user("Hello")], [assistant("the dog")], [assistant("12")]),
    ("merging", [user("Hello")], [assistant("\nthe dog")], [assistant("the dog")]),
    ("instruct", [user("Hello")], [assistant("the dog")], [assistant("the fox")]),
]


def templates():
    """Name and text of every template: the golden ones, and those that the program brings."""
    for path in sorted((HERE / "templates").glob("*.jinja")):
        yield path.stem, path.read_text()
    for path in sorted((HERE.parents[2] / "src/data/templates").glob("*.jinja")):
        yield f"built-in {path.stem}", path.read_text()


def render(tokenizer, template, messages, add_generation_prompt, date=None, **variables):
    # As apply_chat_template does, but with strftime_now undefined or fixed, so that the text does not change at midnight.
    if date is None:
        strftime_now = jinja2.Undefined(name="strftime_now")
    else:
        strftime_now = datetime.datetime.fromisoformat(date).strftime
    # What apply_chat_template does to messages (it has no parameter for the clock).
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    variables = {"tools": None, "documents": None, **tokenizer.special_tokens_map, **variables}
    return _compile_jinja_template(template).render(
        messages=_alias_reasoning_fields(messages),
        add_generation_prompt=add_generation_prompt,
        strftime_now=strftime_now,
        **{**variables, "tools": variables["tools"] or None},
    )


def variable_cases(tokenizer):
    texts = dict(templates())
    for name, messages, variables in VARIABLES:
        case = {"template": name, "messages": messages, "variables": variables}
        try:
            text = render(tokenizer, texts[name], messages, True, **variables)
        except jinja2.exceptions.TemplateError as error:
            yield {**case, "raises": str(error)}
            continue
        if "date" not in variables and "strftime_now" not in texts[name]:
            # TRL passes no tools where the row has none.
            tools = variables.get("tools") or None
            more = {key: value for key, value in variables.items() if key != "tools"}
            assert text == tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=texts[name], add_generation_prompt=True, tokenize=False, **more
            )
        yield {**case, "text": text}


def chat_cases(tokenizer):
    for name, template in templates():
        for messages in CONVERSATIONS:
            for add_generation_prompt in (False, True):
                case = {"template": name, "add_generation_prompt": add_generation_prompt, "messages": messages}
                try:
                    text = render(tokenizer, template, messages, add_generation_prompt)
                except jinja2.exceptions.TemplateError as error:
                    yield {**case, "raises": str(error)}
                    continue
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if "strftime_now" not in template:
                    whole = tokenizer.apply_chat_template(
                        messages, chat_template=template, add_generation_prompt=add_generation_prompt, return_dict=False
                    )
                    assert whole == ids
                # Torture is about the text; its ids would only make the file long.
                yield {**case, "text": text} if name == "torture" else {**case, "text": text, "ids": ids}


def row_cases(tokenizer):
    for name, prompt, chosen, rejected in ROWS:
        if name is None:
            def encode(answer):
                ids = tokenizer(prompt + answer)["input_ids"]
                if prompt.startswith(tokenizer.bos_token):
                    ids = ids[1:]  # the tokenizer adds a second BOS; exactly one is wanted
                return ids

            def ended(answer):
                return answer if answer.endswith(tokenizer.eos_token) else answer + tokenizer.eos_token

            prompt_ids, whole = encode(""), [encode(ended(chosen)), encode(ended(rejected))]
        else:
            template = (HERE / "templates" / f"{name}.jinja").read_text()

            def encode(messages, add_generation_prompt=False):
                return tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=add_generation_prompt, return_dict=False
                )

            prompt_ids = encode(prompt, True)
            whole = [encode(prompt + chosen), encode(prompt + rejected)]
        border = len(prompt_ids)
        while not all(ids[:border] == prompt_ids[:border] for ids in whole):
            border -= 1
        yield {
            "template": name,
            "row": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
            "moved": border < len(prompt_ids),
            "prompt": prompt_ids[:border],
            "chosen": whole[0][border:],
            "rejected": whole[1][border:],
        }


def main():
    tokenizer = make_folder()
    texts = [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS]
    cases = {"texts": texts, "chats": list(chat_cases(tokenizer)), "rows": list(row_cases(tokenizer))}
    cases["variables"] = list(variable_cases(tokenizer))
    # One case a line: a change shows where it is.
    lists = (
        f'"{name}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in of) + "\n]"
        for name, of in cases.items()
    )
    (HERE / "cases.json").write_text("{" + ",\n".join(lists) + "}\n")


main()
