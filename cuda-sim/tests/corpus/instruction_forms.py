"""Lists the instruction forms of PTX text: one per mnemonic, with all its modifiers, and kinds of operands.

    python instruction_forms.py kernel.ptx ... > forms.txt

The list names what an engine must execute without holding the program. A line is a guard (if there is one), the mnemonic and its
operands, and every operand is one of

    pred b16 f32 b64 ...     a register of that declared type; `!pred` is a negated one, `_` a sink
    imm                      an integer constant; constants that choose what an instruction does (the size of a copy, the
                             number of a barrier, a lookup table) are kept as they are
    fimm                     a floating-point constant
    %tid.x ...               a special register
    symbol label             a variable's or function's name, and a label
    [b64] [b64+imm] [symbol] [param] an address; `param` is one of the function's own parameters
    {..,..}                  a vector
"""

import pathlib
import re
import sys

REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+([^;]+);")
NAME = r"[%$_A-Za-z][\w$%.]*"
# Instructions whose constants are part of what they are.
KEPT_CONSTANTS = ("cp.", "bar.", "barrier.", "lop3", "prmt", "setmaxnreg")


def declared(text):
    """The type of every register name and of every `%name<count>` prefix of one function."""
    names, prefixes = {}, {}
    for kind, variables in REGISTERS.findall(text):
        for variable in variables.split(","):
            variable = variable.strip()
            if "<" in variable:
                prefixes[variable.split("<")[0]] = kind
            else:
                names[variable] = kind
    return names, prefixes


class Forms:
    def __init__(self, function):
        self.names, self.prefixes = declared(function)
        self.parameters = set(re.findall(r"\.param[^,()]*?\s(" + NAME + r")\s*(?:\[\d+\])?\s*[,)\n]", function))
        self.labels = set(re.findall(r"^\s*(" + NAME + r"):", function, flags=re.M))

    def register(self, word):
        if word in self.names:
            return self.names[word]
        return self.prefixes.get(word.rstrip("0123456789"))

    def operand(self, word, mnemonic):
        word = word.strip()
        if word.startswith("{"):
            return "{" + ",".join(self.operand(w, mnemonic) for w in split(word[1:-1])) + "}"
        if word.startswith("["):
            inner = re.sub(r"\s+", "", word[1:-1])
            base, _, offset = inner.partition("+")
            base = "param" if base in self.parameters else self.operand(base, "")
            return f"[{base}]" if offset in ("", "0") else f"[{base}+imm]"
        if word.startswith("!"):
            return "!" + self.operand(word[1:], mnemonic)
        if word == "_":
            return "_"
        if kind := self.register(word):
            return kind
        if re.fullmatch(r"0[fdFD][0-9a-fA-F]+", word):
            return "fimm"
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", word):
            return word if mnemonic.startswith(KEPT_CONSTANTS) else "imm"
        if word.startswith("%"):
            return word
        return "label" if word in self.labels else "symbol"

    def form(self, statement):
        guard = re.match(r"@(!?)(" + NAME + r")\s+", statement)
        if guard:
            statement = statement[guard.end() :]
        mnemonic, _, operands = statement.partition(" ")
        words = [] if not operands.strip() else split(operands)
        kinds = ", ".join(self.operand(word, mnemonic) for word in words)
        return f"{'@' + guard[1] + 'pred ' if guard else ''}{mnemonic} {kinds}".strip()


def split(text):
    """Splits at the commas that are outside all brackets."""
    words, depth, word = [], 0, ""
    for c in text:
        depth += (c in "[{(") - (c in "]})")
        if c == "," and depth == 0:
            words.append(word)
            word = ""
        else:
            word += c
    return words + [word]


def instruction_forms(text):
    """The set of forms of a whole module."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^\s*\.(loc|file|pragma)\b[^\n]*", "", text, flags=re.M)
    text = re.sub(r"\.section\s+\.\w+\s*\{.*?\n\s*\}", "", text, flags=re.S)
    found = set()
    starts = [match.start() for match in re.finditer(r"\.(?:entry|func)\b", text)] + [len(text)]
    for start, end in zip(starts, starts[1:]):
        function = text[start:end]
        forms = Forms(function)
        body = function[function.index("{") + 1 :] if "{" in function else ""
        for statement in re.split(r";", body):
            statement = re.sub(r"\s+", " ", statement).strip()
            while True:
                # Braces of inline assembly and labels that stand before the instruction.
                shorter = re.sub(r"^([{}]|" + NAME + r":)\s*", "", statement)
                if shorter == statement:
                    break
                statement = shorter
            if statement and statement[0] not in ".}":
                found.add(forms.form(statement))
    return found


if __name__ == "__main__":
    every = set()
    for name in sys.argv[1:]:
        every |= instruction_forms(pathlib.Path(name).read_text())
    print("\n".join(sorted(every)))
