"""The built-in set: docstrings and code of Python's own standard library.

A query is the first sentence of a docstring; its passage is the name and the code that
the docstring stands in. Nothing is downloaded, and nothing is imported to be read.
"""

import ast
import functools
import importlib.util
import os
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from m3jax.core.errors import InputError
from m3jax.data.records import Pairs, Retrieval, content_hash

Part = Literal["train", "dev", "test", "all"]

PASSAGE_CHARACTERS = 1_500

# Tests, and programs that only demonstrate: their docstrings describe little.
SKIP = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}

# Modules that carry copies of one another's code share a family, and a family one part.
# So does a module with the twin whose name only adds an underscore or `_py`.
FAMILY = {
    "posixpath": "os",
    "ntpath": "os",
    "genericpath": "os",
    "nturl2path": "urllib",
    "bz2": "compression",
    "gzip": "compression",
    "lzma": "compression",
    "aifc": "wave",
    "chunk": "wave",
    "sunau": "wave",
    "imghdr": "email",
    "sndhdr": "email",
    "calendar": "datetime",
    "strptime": "datetime",
    "zoneinfo": "datetime",
    "ctypes": "distutils",
    "shutil": "distutils",
    "sysconfig": "distutils",
    "collections_abc": "collections",
    "xmlrpc": "pydoc",
    "weakrefset": "weakref",
    "threading_local": "threading",
}

# Chosen so that on Python 3.11 to 3.13 the parts come near to 80, 8 and 12 %.
SALT = 179

# A sentence that more entries than this begin with says nothing about any of them.
SAID_AT_MOST = 3

SENTENCE_END = re.compile(r"""(?<=[.!?])\s+(?=[A-Z"'`(])""")
SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->\s*\S+)?")
BOILERPLATE = re.compile(r"\W*(see|deprecated|dummy)\b", re.IGNORECASE)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """One documented function or class.

    Attributes:
        name: its qualified name; a repeated one ends in `#2`, `#3` and so on.
        query: first sentence of its docstring.
        passage: its qualified name, then its code without docstrings.
    """

    name: str
    query: str
    passage: str


def entries(part: Part = "all") -> tuple[Entry, ...]:
    """Read the standard library of the running Python, once per process.

    Parts hold whole modules: about 80 % of the pairs are train, 8 % dev, 12 % test.

    Args:
        part: which modules.

    Returns:
        The functions and classes, by file and line; the same in every run of one
        version of Python.

    Raises:
        InputError: this Python comes without the source of its library, or there is no
            such part.

    Example:
        >>> entry = next(e for e in entries("train") if e.name == "posixpath.isabs")
        >>> entry.query
        'Test whether a path is absolute'
        >>> entry.passage.splitlines()[:2]
        ['posixpath.isabs', 'def isabs(s):']
    """
    if part not in get_args(Part):
        raise InputError(" or ".join(get_args(Part)), repr(part), where="part")
    found = _read(_library())
    return tuple(entry for entry in found if part in ("all", _part(entry.name)))


def pairs(part: Part) -> list[Pairs]:
    """List the built-in set as rows for training.

    Args:
        part: which modules.

    Returns:
        One row an entry, with one positive and no negatives.

    Raises:
        InputError: this Python comes without the source of its library.

    Example:
        >>> pairs("train")[0].neg
        ()
    """
    return [Pairs(entry.query, (entry.passage,)) for entry in entries(part)]


def retrieval(part: Part) -> Retrieval:
    """Pose the built-in set as a retrieval task.

    Args:
        part: which modules; the corpus is their passages only.

    Returns:
        The task. Passage ids are qualified names, query ids content hashes in hex;
        entries that open with the same sentence are all answers to one query.

    Raises:
        InputError: this Python comes without the source of its library.

    Example:
        >>> task = retrieval("test")
        >>> len(task.corpus) >= len(task.queries)
        True
    """
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for entry in entries(part):
        key = content_hash(entry.query).hex()
        queries[key] = entry.query
        qrels.setdefault(key, {})[entry.name] = 1
    return Retrieval(queries, {e.name: e.passage for e in entries(part)}, qrels)


def _part(name: str) -> str:
    digest = content_hash(f"{SALT} {_family(name.partition('.')[0])}")
    share = int.from_bytes(digest, "big") / 2**64
    return "train" if share < 0.8 else "dev" if share < 0.88 else "test"


def _family(module: str) -> str:
    plain = module.removeprefix("_py").strip("_")
    return FAMILY.get(plain, plain)


def _library() -> Path:
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "os.py").is_file():
        raise InputError(
            "the source of Python's standard library",
            "no os.py",
            where=str(root),
            do="Use a Python installed with its .py files, or name a data file.",
        )
    return root


@functools.cache
def _read(root: Path) -> tuple[Entry, ...]:
    """Read all files; of entries with the same sentence and code, keep the first."""
    found: dict[tuple[str, str], str] = {}
    for path in _files(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for name, query, code in _documented(module, path.read_bytes()):
            found.setdefault((query, code), name)
    said = Counter(query for query, _ in found)
    seen: Counter[str] = Counter()
    entries = []
    for (query, code), name in found.items():
        if said[query] > SAID_AT_MOST:
            continue
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        entries.append(Entry(unique, query, f"{name}\n{code}"))
    return tuple(entries)


def _files(root: Path) -> list[Path]:
    """Files of the library proper, in an order that no file system changes."""
    found = []
    for folder, folders, names in os.walk(root):
        if Path(folder) == root:  # not the packages that others have installed
            folders[:] = [name for name in folders if name in sys.stdlib_module_names]
            names = [n for n in names if n[:-3] in sys.stdlib_module_names]
        folders[:] = [name for name in folders if name not in SKIP]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _documented(module: str, source: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield the name, first sentence and code of what a file documents."""
    try:
        text = importlib.util.decode_source(source)
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError):  # some files are written not to parse
        return
    definitions = list(_definitions(tree, module))
    lines = _without_docstrings([node for _, node in definitions], text)
    for name, node in definitions:
        query = _first_sentence(ast.get_docstring(node, clean=False) or "")
        if _says_something(query):
            yield name, query, _code(node, lines)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Walk the statements; expressions, the most of a tree, define nothing."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            if isinstance(child, Definition):
                name = f"{prefix}.{child.name}"
                yield name, child
                yield from _definitions(child, name)
            else:
                yield from _definitions(child, prefix)


def _without_docstrings(nodes: list[Definition], text: str) -> list[str]:
    """Blank every docstring, keeping the number of lines."""
    lines = text.split("\n")
    for node in nodes:
        doc = node.body[0]
        if ast.get_docstring(node, clean=False) is None or doc.end_lineno is None:
            continue
        first, last = doc.lineno - 1, doc.end_lineno - 1
        before = lines[first].encode()[: doc.col_offset]  # ast counts in bytes
        after = lines[last].encode()[doc.end_col_offset :]
        lines[first] = (before + after).decode()
        lines[first + 1 : last + 1] = [""] * (last - first)
    return lines


def _code(node: Definition, lines: list[str]) -> str:
    """The lines of a definition; of a long class, the heads of its methods."""
    first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
    numbers = range(first, (node.end_lineno or first) + 1)
    code = _join([lines[number - 1] for number in numbers])
    if isinstance(node, ast.ClassDef) and len(code) > PASSAGE_CHARACTERS:
        bodies = {n for _, inner in _definitions(node, "") for n in _body(inner)}
        code = _join([lines[n - 1] for n in numbers if n not in bodies])
    return code[:PASSAGE_CHARACTERS].rstrip()


def _body(node: Definition) -> range:
    """Line numbers of a function's body, without its head."""
    if isinstance(node, ast.ClassDef) or node.body[0].lineno == node.lineno:
        return range(0)
    return range(node.body[0].lineno, (node.end_lineno or 0) + 1)


def _join(lines: list[str]) -> str:
    """Join lines without the blank ones and without their common indentation."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return "\n".join(line.removeprefix(indent) for line in lines if line.strip())


def _first_sentence(doc: str) -> str:
    for paragraph in re.split(r"\n\s*\n", doc.strip()):
        text = " ".join(paragraph.split(">>>")[0].split())
        if not SIGNATURE.fullmatch(text):
            return SENTENCE_END.split(text, maxsplit=1)[0]
    return ""


def _says_something(query: str) -> bool:
    words = re.findall(r"[^\W\d_]+", query)
    return (
        len(words) >= 3 and 12 <= len(query) <= 300 and BOILERPLATE.match(query) is None
    )
