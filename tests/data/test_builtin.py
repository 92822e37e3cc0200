import os
import sys
import sysconfig
import warnings
from pathlib import Path
from textwrap import dedent

import pytest

from m3jax.core.errors import InputError
from m3jax.data import builtin
from m3jax.data.builtin import Entry, entries, pairs, retrieval

PARTS: tuple[builtin.Part, ...] = ("train", "dev", "test")


def code(entry: Entry) -> str:
    return entry.passage.split("\n", 1)[1]


# The library of the Python that runs the tests


def test_every_part_is_large_enough_and_near_its_share():
    total = len(entries())
    train, dev, test = (len(entries(part)) for part in PARTS)
    assert total > 6_000 and total == train + dev + test
    assert 0.78 < train / total < 0.83
    assert dev >= 300 and 0.06 < dev / total < 0.10
    assert test >= 500 and 0.10 < test / total < 0.14


def test_no_family_of_modules_is_in_two_parts():
    train, dev, test = (
        {builtin._family(entry.name.split(".")[0]) for entry in entries(part)}
        for part in PARTS
    )
    assert not train & dev and not train & test and not dev & test
    assert len(dev) > 5 and len(test) > 5


def test_no_sentence_and_code_occur_twice():
    found = [(entry.query, code(entry)) for entry in entries()]
    assert len(found) == len(set(found))


def test_few_queries_of_dev_and_test_are_trained_on():
    train = {entry.query for entry in entries("train")}
    for part in ("dev", "test"):
        seen = sum(entry.query in train for entry in entries(part))
        assert seen < 0.01 * len(entries(part))


def test_entries_hold_what_a_query_and_a_passage_should():
    for entry in entries():
        assert entry.query == " ".join(entry.query.split())
        assert 12 <= len(entry.query) <= 300
        head = entry.name.split("#")[0]
        assert entry.passage.startswith(f"{head}\n")
        assert len(code(entry)) <= builtin.PASSAGE_CHARACTERS
        assert entry.passage == entry.passage.rstrip()


def test_passages_do_not_quote_their_queries():
    quoting = [entry.name for entry in entries() if entry.query in entry.passage]
    assert len(quoting) < 5


def test_names_are_unique_and_in_the_order_of_the_files():
    names = [entry.name for entry in entries()]
    tops = list(dict.fromkeys(name.split(".")[0] for name in names))
    assert len(names) == len(set(names))
    assert any(name.endswith("#2") for name in names)
    assert set(tops) <= set(sys.stdlib_module_names)
    assert not {part for name in names for part in name.split(".")} & {
        "idlelib",
        "lib2to3",
        "turtledemo",
    }


def test_the_module_of_os_path_is_trained_on():
    names = {entry.name for entry in entries("train")}
    assert {"posixpath.normpath", "ntpath.splitdrive", "os.walk"} <= names


def test_pairs_and_retrieval_hold_the_same_entries():
    for part in PARTS:
        found = entries(part)
        assert [(row.query, row.pos) for row in pairs(part)] == [
            (entry.query, (entry.passage,)) for entry in found
        ]
        task = retrieval(part)
        assert task.corpus == {entry.name: entry.passage for entry in found}
        assert set(task.queries.values()) == {entry.query for entry in found}
        assert set(task.qrels) == set(task.queries)
        judged = [
            (task.queries[query], name, grade)
            for query, grades in task.qrels.items()
            for name, grade in grades.items()
        ]
        assert sorted(judged) == sorted((e.query, e.name, 1) for e in found)


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="train or dev or test or all, found 'val'"):
        entries("val")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "modules",
    [
        ("os", "posixpath", "ntpath", "genericpath"),
        ("decimal", "_decimal", "_pydecimal"),
        ("io", "_io", "_pyio"),
        ("datetime", "_datetime", "_pydatetime", "_strptime"),
        ("abc", "_py_abc"),
        ("collections", "_collections_abc"),
        ("weakref", "_weakrefset"),
        ("bz2", "lzma", "gzip", "_compression", "compression"),
    ],
)
def test_modules_that_share_code_share_a_part(modules: tuple[str, ...]):
    assert len({builtin._family(module) for module in modules}) == 1
    assert len({builtin._part(f"{module}.f") for module in modules}) == 1


@pytest.mark.parametrize("module", ["pydoc", "pyclbr", "py_compile", "pprint"])
def test_only_an_underscore_marks_a_twin(module: str):
    assert builtin._family(module) == module


# A library of a few lines


SHARED = '''
def {name}(path):
    """Say where a path begins and ends."""
    return path, {name!r}
'''

LIBRARY = {
    "os.py": '''
        """Module docstrings are left out."""
        def first(a, *b):
            """Return the very first.  Then more
            is said, over two lines.
            """

            # why

            return a
        class Small(list):
            r"""A small
            kind of list!"""
            @property
            def last(self):
                """The last of all"""
                return self[-1]
            def silent(self): return 1
        try:
            def first(a): "Return some other thing."; return 2
        except ValueError:
            async def later():
                """later(now)

                Wait until the é is over; e.g. tomorrow. `x` is unused.
                """
                def inner():
                    """Do what is inside."""
        ''',
    "copy.py": SHARED.format(name="span") + SHARED.format(name="reach"),
    "shelve.py": SHARED.format(name="span"),  # again, word for word
    "bisect.py": "".join(
        f"def f{i}():\n    '''Every one says this.'''\n    return {i}\n"
        for i in range(4)
    ),
    "cmd.py": '''
        def a(): """Too short"""
        def b(): """xy z u v w"""
        def c(): """See the other function."""
        def d(): """**Deprecated**: use another one."""
        def e(): """Dummy that does nothing."""
        def f(): """d.e(x) -> y"""
        def g(): """Seen from above."""
        def h(): ""
        def i(): x = "No docstring at all."
        ''',
    "glob.py": 'def f():\n    """Has an \\escape that warns."""\n    return "\\d"\n',
    "email/__init__.py": 'def f():\n    """Stand in a package."""\n',
    "email/sub/deep.py": 'def f():\n    """Stand deep in a package."""\n',
    "json.py": "def broken(:\n    '''Never to be read here.'''\n",
    "wave.py": '# coding: latin-1\ndef f():\n    """Say \xe9 in Latin."""\n',
    "email/test/case.py": 'def f():\n    """A test of something."""\n',
    "email/tests/case.py": 'def f():\n    """A test of something."""\n',
    "email/notes.txt": 'def f():\n    """Not even Python here."""\n',
    "idlelib/case.py": 'def f():\n    """An editor for beginners."""\n',
    "site-packages/numpy.py": 'def f():\n    """Installed by someone else."""\n',
    "test/case.py": 'def f():\n    """A test of something."""\n',
    "stranger.py": 'def f():\n    """Put there by someone."""\n',
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in LIBRARY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dedent(text).encode("latin-1"))
    os_text = dedent(LIBRARY["os.py"])
    (tmp_path / "os.py").write_text(os_text, "utf-8", newline="\r\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def of(module: str) -> list[Entry]:
    return [entry for entry in entries() if entry.name.split(".")[0] == module]


def test_what_is_read_of_a_file(library: Path):
    small = "class Small(list):\n    @property\n    def last(self):\n"
    small += "        return self[-1]\n    def silent(self): return 1"
    assert of("os") == [
        Entry(
            "os.first",
            "Return the very first.",
            "os.first\ndef first(a, *b):\n    # why\n    return a",
        ),
        Entry("os.Small", "A small kind of list!", f"os.Small\n{small}"),
        Entry(
            "os.Small.last",
            "The last of all",
            "os.Small.last\n@property\ndef last(self):\n    return self[-1]",
        ),
        Entry(
            "os.first#2",
            "Return some other thing.",
            "os.first\ndef first(a): ; return 2",
        ),
        Entry(
            "os.later",
            "Wait until the é is over; e.g. tomorrow.",
            "os.later\nasync def later():\n    def inner():",
        ),
        Entry("os.later.inner", "Do what is inside.", "os.later.inner\ndef inner():"),
    ]


def test_of_an_exact_copy_the_first_stays(library: Path):
    assert [(e.name, e.query) for e in of("copy") + of("shelve")] == [
        ("copy.span", "Say where a path begins and ends."),
        ("copy.reach", "Say where a path begins and ends."),
    ]


def test_entries_with_one_sentence_answer_one_query(library: Path):
    task = retrieval("all")
    (query,) = [key for key, text in task.queries.items() if text.startswith("Say wh")]
    assert task.qrels[query] == {"copy.span": 1, "copy.reach": 1}


def test_what_says_nothing_is_left_out(library: Path):
    assert of("bisect") == []
    assert [entry.name for entry in of("cmd")] == ["cmd.g"]


def test_which_files_are_read(library: Path):
    with warnings.catch_warnings(action="error"):
        tops = [entry.name for entry in entries() if entry.name.endswith(".f")]
    assert tops == ["email.f", "email.sub.deep.f", "glob.f", "wave.f"]
    assert [entry.query for entry in of("wave")] == ["Say é in Latin."]


def test_the_file_system_does_not_order_the_entries(
    library: Path, monkeypatch: pytest.MonkeyPatch
):
    before = entries()
    walk = os.walk

    def backwards(root: Path):
        for folder, folders, names in walk(root):
            yield folder, folders, sorted(names, reverse=True)
            folders.sort(reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert builtin._read.__wrapped__(library) == before


def test_the_library_is_read_once(library: Path):
    before = entries()
    (library / "glob.py").unlink()
    assert entries() == before


def test_a_long_class_shows_the_heads_of_its_methods(library: Path):
    method = '''
    def m{i}(self,
             x=[i]):
        """What it does."""
        return "{long}"
    '''
    text = 'class Long:\n    """A class of many lines."""\n    level = 3\n'
    for i in range(9):
        text += method.replace("{i}", str(i)).replace("{long}", "x" * 200)
    text += "\n    def one(self): return 1\n"
    (library / "heapq.py").write_text(text)
    (entry,) = [e for e in of("heapq") if e.name == "heapq.Long"]
    heads = "".join(f"    def m{i}(self,\n             x=[i]):\n" for i in range(9))
    assert code(entry) == (
        f"class Long:\n    level = 3\n{heads}    def one(self): return 1"
    )


def test_a_long_function_is_cut(library: Path):
    body = "".join(f"    x{i} = {i}\n" for i in range(500))
    text = f'def f():\n    """Set a great many."""\n{body}'
    (library / "heapq.py").write_text(text)
    (entry,) = of("heapq")
    assert f"def f():\n{body}".startswith(code(entry))
    assert 1_480 < len(code(entry)) <= 1_500


def test_a_python_without_sources_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "py.zip"))
    with pytest.raises(InputError) as caught:
        entries()
    assert "py.zip: expected the source of Python's standard" in str(caught.value)
    assert caught.value.do.startswith("Use a Python installed with its .py files")
