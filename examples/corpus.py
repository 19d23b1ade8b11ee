"""Collect the training text of the example checkpoint from a Python installation.

Decides which documentation becomes a document, and how a document becomes a question and an answer.
It does not tokenize and knows nothing of the model.

Three sources, all shipped with the CPython that runs this file, so nothing is downloaded:

* `pydoc_data.topics`: the language reference as `help("assert")` prints it;
* the docstrings of the pure-Python standard library, read from the source with `ast` (nothing is imported);
* the docstrings of built-in and extension modules, which exist only at run time.

Source files that carry a licence of their own, or a copyright notice of somebody other than the Python Software
Foundation, are left out, so that the whole corpus is under the one licence that ships beside the checkpoint.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Literal

Kind = Literal["topic", "module", "class", "function"]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Message = dict[str, str]

# Test suites, bundled third-party code, demos and generated tables: either not documentation or not PSF-licensed.
EXCLUDED_DIRS = frozenset(
    {
        "site-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "encodings",
        "ensurepip",
        "pydoc_data",
        "msilib",
    }
)

# Modules (partly) written in C: their docstrings are not in any .py file. Without `re` and `syslog`, whose C sources
# carry copyright notices of others.
# fmt: off
EXTENSION_MODULES = (
    "array", "binascii", "bisect", "builtins", "cmath", "collections", "csv", "datetime", "errno", "fcntl",
    "functools", "gc", "heapq", "io", "itertools", "json", "marshal", "math", "mmap", "operator", "os", "pwd",
    "queue", "random", "select", "signal", "socket", "struct", "sys", "threading", "time",
    "types", "unicodedata", "weakref", "zlib",
)
# fmt: on

MAX_DOCUMENT_CHARS = 20_000
MAX_ANSWER_CHARS = 300
MIN_DOC_CHARS = 24

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a Python expert.",
    "Answer questions about Python.",
    "Be brief.",
)

QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "topic": ("What is {name}?", "Tell me about {name}.", "Explain {name}."),
    "module": ("What is the {name} module?", "What does the {name} module do?", "What is {name}?"),
    "class": ("What is {name}?", "What is the {name} class?", "Describe {name}."),
    "function": ("What does {name} do?", "What is {name}?", "How do I use {name}?", "Explain {name}."),
}

# Written for this project, so that a greeting does not get a random docstring back.
SMALL_TALK = (
    ("Hello!", "Hello! Ask me about a Python function, class, module or statement."),
    ("Hi", "Hello! Ask me about a Python function, class, module or statement."),
    ("Who are you?", "I am a very small language model, trained on the documentation of Python."),
    ("What can you do?", "I can repeat what the documentation of Python says about a name."),
    ("Thank you!", "You are welcome."),
    ("What is Python?", "Python is an interpreted, interactive, object-oriented programming language."),
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One documented thing: what it is called, and what its documentation says."""

    name: str
    kind: Kind
    text: str
    answer: str
    is_well_known: bool

    @property
    def is_asked(self) -> bool:
        """Whether chats ask about it: a model this small should spend its memory on names that people type."""
        return bool(self.answer) and "._" not in f".{self.name}" and self.name.count(".") <= 2


def read_corpus() -> list[Document]:
    """Return every document of the running Python, in a fixed order, no text twice."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    documents = []
    for document in (*_read_topics(), *_read_runtime(EXTENSION_MODULES), *_read_sources(stdlib)):
        body = document.text.partition("\n\n")[2]
        if len(body) >= MIN_DOC_CHARS and body not in seen:
            seen.add(body)
            documents.append(document)
    return documents


def fingerprint(documents: Iterable[Document]) -> str:
    """Return the sha256 of all texts: another Python version has other documentation, hence another checkpoint."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.text.encode() + b"\0")
    return digest.hexdigest()


def make_chats(documents: Iterable[Document], rounds: int, seed: int) -> list[list[Message]]:
    """Turn documents into conversations: the name makes the question, the first paragraph the answer.

    Args:
        documents: What to ask about; those that are not `is_asked` are skipped.
        rounds: How many times each is asked, worded anew; a well-known one is asked three times per round.
        seed: Of the wording, the grouping and the order.
    """
    rng = random.Random(seed)
    asked = [d for d in documents if d.is_asked]
    pairs = [(rng.choice(QUESTIONS[d.kind]).format(name=_spoken(d, rng)), d.answer)
             for d in asked for _ in range(rounds * (3 if d.is_well_known else 1))]  # fmt: skip
    pairs += [pair for pair in SMALL_TALK for _ in range(10 * rounds)]
    rng.shuffle(pairs)
    chats = []
    while pairs:
        turns = [pairs.pop() for _ in range(min(len(pairs), rng.choice((1, 1, 1, 2, 3))))]
        chat = [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}] if rng.random() < 0.35 else []
        for question, answer in turns:
            chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        chats.append(chat)
    return chats


def _spoken(document: Document, rng: random.Random) -> str:
    """Return the name as a person would type it: `len` or `len()`."""
    return document.name + "()" if document.kind == "function" and rng.random() < 0.25 else document.name


def _read_topics() -> Iterator[Document]:
    for key, raw in topics.items():
        title, _, rest = raw.strip().partition("\n")
        body = re.sub(r"^[*=\-~^]{3,}\n+", "", rest)
        name = title.replace('"', "").strip()
        name = name[0].lower() + name[1:] if name.startswith("The ") else name
        text = f"{title}\n\n{body.strip()}"
        for part in _split(text, MAX_DOCUMENT_CHARS):
            yield Document(name=name, kind="topic", text=part, answer=_first_paragraph(body, key), is_well_known=True)


def _read_sources(stdlib: Path) -> Iterator[Document]:
    for path in sorted(stdlib.rglob("*.py")):
        relative = path.relative_to(stdlib)
        if EXCLUDED_DIRS.intersection(relative.parts):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        if _has_foreign_licence(source):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        is_public = not any(part.startswith("_") for part in module.split("."))
        yield from _walk(ast.parse(source), module, is_module_known=is_public and "." not in module)


def _has_foreign_licence(source: str) -> bool:
    notice_line = r"^.*(?:copyright\b.*\b(?:19|20)\d\d|^# copyright|\(c\) copyright|spdx-|licen[cs]ed under).*$"
    notices = re.findall(notice_line, source, re.IGNORECASE | re.MULTILINE)
    return any("Python Software Foundation" not in notice for notice in notices)


def _walk(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    name: str,
    *,
    is_module_known: bool = False,
) -> Iterator[Document]:
    doc = ast.get_docstring(node)
    if doc:
        kind: Kind = (
            "module" if isinstance(node, ast.Module) else "class" if isinstance(node, ast.ClassDef) else "function"
        )
        heading = name + _source_signature(node)
        yield _document(name, kind, heading, doc, is_well_known=is_module_known)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")


def _source_signature(node: ast.AST) -> str:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    signature = f"({ast.unparse(node.args)})"
    return signature if len(signature) <= 160 else "(...)"


def _read_runtime(module_names: Iterable[str]) -> Iterator[Document]:
    for module_name in module_names:
        module = importlib.import_module(module_name)
        is_builtin = module_name == "builtins"
        if module.__doc__ and not is_builtin:
            yield _document(module_name, "module", module_name, module.__doc__, is_well_known=True)
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and not isinstance(value, ModuleType):
                yield from _runtime_object(name if is_builtin else f"{module_name}.{name}", value, is_builtin)


def _runtime_object(name: str, value: object, is_well_known: bool) -> Iterator[Document]:
    is_class = inspect.isclass(value)
    # Constants inherit the docstring of their type, which says nothing about them.
    if not is_class and not callable(value):
        return
    doc = inspect.getdoc(value) if "__doc__" in dir(value) else None
    if doc and not inspect.isfunction(value):
        kind: Kind = "class" if is_class else "function"
        yield _document(name, kind, name + _runtime_signature(value), doc, is_well_known=is_well_known)
    if isinstance(value, type) and not issubclass(value, BaseException):
        for attribute, method in sorted(vars(value).items()):
            method_doc = getattr(method, "__doc__", None)
            is_ours = not attribute.startswith("_") and callable(method) and not inspect.isfunction(method)
            if is_ours and isinstance(method_doc, str):
                heading = f"{name}.{attribute}" + _runtime_signature(method)
                yield _document(f"{name}.{attribute}", "function", heading, method_doc, is_well_known=is_well_known)


def _runtime_signature(value: object) -> str:
    if not callable(value):
        return ""
    try:
        return str(inspect.signature(value))
    except ValueError:  # many C functions have none
        return ""


def _document(name: str, kind: Kind, heading: str, doc: str, *, is_well_known: bool) -> Document:
    body = inspect.cleandoc(doc).strip()
    text = f"{heading}\n\n{body[:MAX_DOCUMENT_CHARS]}"
    return Document(name=name, kind=kind, text=text, answer=_first_paragraph(body, name), is_well_known=is_well_known)


def _split(text: str, limit: int) -> Iterator[str]:
    """Cut a long text at paragraph ends."""
    while len(text) > limit:
        cut = text.rfind("\n\n", 1, limit)
        cut = cut if cut > 0 else limit
        yield text[:cut]
        text = text[cut:].lstrip("\n")
    yield text


def _first_paragraph(body: str, name: str) -> str:
    """Return the first paragraph of prose on one line, cut at a sentence end; empty when there is none."""
    short_name = name.rpartition(".")[2]
    for paragraph in re.split(r"\n\s*\n", body):
        lines = paragraph.splitlines()
        # A call signature alone, or on top of its explanation.
        while lines and (re.match(rf"[\w.]*{re.escape(short_name)}\(", lines[0]) or "->" in lines[0][:60]):
            lines = lines[1:]
        is_prose = bool(lines) and not lines[0].startswith((" ", ">>>", "*", "-", "+", "#", "="))
        is_prose = is_prose and not re.search(r"::=|^[=\-*~^]{4,}$", paragraph, re.MULTILINE)
        words = " ".join(" ".join(lines).split())
        if is_prose and len(words) >= MIN_DOC_CHARS and re.search(r"[a-z]{3} [a-z]", words):
            return _cut_at_sentence(words, MAX_ANSWER_CHARS)
    return ""


def _cut_at_sentence(words: str, limit: int) -> str:
    if len(words) <= limit:
        return re.sub(r":+$", ".", words)
    cut = max(words.rfind(mark, 0, limit) for mark in (". ", "; ", ": "))
    return words[: cut + 1].rstrip(";:") + ("" if words[cut] == "." else ".") if cut > 40 else ""
