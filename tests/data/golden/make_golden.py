#!/usr/bin/env python3
"""Makes the golden files beside it with Hugging Face transformers, so that the tests compare with code nobody here wrote.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
    python3 make_golden.py

- folder/: a byte-level BPE of 420 tokens in the layout of a Llama-3 folder, trained on the lines below.
- templates/*.jinja: written by hand (inputs, not made here).
- cases.json: for each template and conversation, the text and the ids of apply_chat_template, or the words it raises;
  texts with their ids; preference rows with prompt, chosen and rejected ids by TRL's rule (common token prefix).
"""

import json
import pathlib

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

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


def render(tokenizer, template, messages, add_generation_prompt):
    # As apply_chat_template does, but with strftime_now undefined, so that the text does not change at midnight.
    return _compile_jinja_template(template).render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        strftime_now=jinja2.Undefined(name="strftime_now"),
        **tokenizer.special_tokens_map,
    )


def chat_cases(tokenizer):
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text()
        for messages in CONVERSATIONS:
            for add_generation_prompt in (False, True):
                case = {"template": path.stem, "add_generation_prompt": add_generation_prompt, "messages": messages}
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
                yield {**case, "text": text} if path.stem == "torture" else {**case, "text": text, "ids": ids}


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
    # One case a line: a change shows where it is.
    lists = (
        f'"{name}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in of) + "\n]"
        for name, of in cases.items()
    )
    (HERE / "cases.json").write_text("{" + ",\n".join(lists) + "}\n")


main()
