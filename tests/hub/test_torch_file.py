"""PyTorch's files: those of PyTorch itself, our own, damaged ones and hostile ones."""

import builtins
import io
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.hub import torch_file
from m3jax.hub.torch_file import read, write

GOLDEN = Path(__file__).parent.parent / "golden" / "torch_file"
FORMATS = ["zip", "legacy"]
ORDERED = b"ccollections\nOrderedDict\n)R"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    """The working directory, where code that was run would leave a file."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# Files built by hand. -----------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(
    key: str = "0", count: int = 6, type: str = "torch\nFloatStorage", view: bytes = b""
) -> bytes:
    parts = [text("storage"), b"c" + type.encode() + b"\n", text(key), text("cpu")]
    return b"(" + b"".join(parts) + number(count) + view + b"tQ"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 0,
    hooks: bytes = ORDERED,
    metadata: bytes = b"",
    **other: Any,
) -> bytes:
    view = number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks
    start = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return start + storage(**other) + view + metadata + b"tR"


def untyped(
    dtype: bytes = b"ctorch\nuint16\n",
    hooks: bytes = ORDERED,
    type: str = "torch.storage\nUntypedStorage",
) -> bytes:
    """Two numbers of a type without a storage of its own; 24 bytes are stored."""
    view = b"K\x00K\x02\x85K\x01\x85\x89" + hooks + dtype
    start = b"ctorch._utils\n_rebuild_tensor_v3\n("
    return start + storage(count=24, type=type) + view + b"tR"


def state(*values: bytes) -> bytes:
    """The pickle of a dict of `values`, named "0", "1" and so on."""
    items = (text(str(key)) + value for key, value in enumerate(values))
    return b"\x80\x02}(" + b"".join(items) + b"u."


def zipped(pickled: bytes, data: dict[str, bytes] | None = None, **options) -> bytes:
    """A zip file with this pickle; `options` change its entries."""
    entries = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": value for key, value in (data or {}).items()}
    entries |= options.get("entries", {})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", options.get("method", 0)) as archive:
        for name, value in entries.items():
            if value is not None:
                archive.writestr(f"archive/{name}", value)
    return file.getvalue()


def legacy(pickled: bytes, data: dict[str, bytes] | None = None, **options) -> bytes:
    """A legacy file with this pickle; storages of 4-byte numbers."""
    data = data or {}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    heads = [0x1950A86A20F9469CFC6C, 1001, machine | options.get("machine", {})]
    parts = [pickle.dumps(head, 2) for head in heads]
    parts += [pickled, pickle.dumps(options.get("keys", list(data)), 2)]
    parts += [struct.pack("<q", len(value) // 4) + value for value in data.values()]
    return b"".join(parts)


MAKERS = {"zip": zipped, "legacy": legacy}
SIX = {"0": np.arange(6, dtype=np.float32).tobytes()}


def refused(content: bytes, why: str, name: str = "a.pt") -> str:
    Path(name).write_bytes(content)
    try:
        with pytest.raises(InputError, match=why) as caught:
            read(name)
    finally:
        Path(name).unlink()
    message = str(caught.value)
    assert message.startswith(f"{name}: expected ") and message.isprintable()
    assert list(Path().iterdir()) == []
    return message


# What is read. ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "protocol4.pt"])
def test_what_pytorch_saved_is_read(name) -> None:
    found = read(GOLDEN / name)
    with np.load(GOLDEN / "expected.npz") as file:
        expected = dict(file)
    expected["bfloat16"] = expected["bfloat16"].astype(jnp.bfloat16)
    assert list(found) == list(expected) and len(found) == len(expected)
    for key, value in expected.items():
        assert type(found[key]) is np.ndarray
        assert found[key].dtype == value.dtype, key
        assert found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert found["float32"].dtype == np.float32 and found["bfloat16"].itemsize == 2
    assert np.signbit(found["bfloat16"][1, 1])


def test_jax_takes_what_is_read() -> None:
    for name in FORMATS:  # legacy storages start anywhere, at odd addresses too
        found = read(GOLDEN / f"{name}.pt")
        np.testing.assert_array_equal(jnp.asarray(found["transposed"])[1], [1, 5, 9])
        assert jnp.asarray(found["bfloat16"])[0, 0] == -1.5


def test_arrays_are_views_of_the_file_that_cannot_be_written() -> None:
    array = read(GOLDEN / "zip.pt")["float32"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    assert not array.flags.owndata
    assert not read(GOLDEN / "zip.pt")["bool"].flags.writeable  # which is a copy


@pytest.mark.parametrize("format", FORMATS)
def test_files_made_by_hand_are_read(format) -> None:
    # Or the refusals below would prove nothing.
    old = b"ctorch.nn.parameter\nParameter\n(" + tensor() + b"\x88tR"
    pickled = state(tensor(), tensor((3, 2), (1, 3), metadata=b"N"), old)
    Path("a.pt").write_bytes(MAKERS[format](pickled, SIX))
    found = read("a.pt")
    np.testing.assert_array_equal(found["0"], np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found["1"], np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(found["2"], found["0"])


def test_a_file_without_byteorder_is_read() -> None:
    content = zipped(state(tensor()), SIX, entries={"byteorder": None})
    Path("a.pt").write_bytes(content)
    assert read("a.pt")["0"][1, 2] == 5


def test_a_bool_that_is_no_bool_is_true() -> None:
    pickled = state(tensor((4,), (1,), count=4, type="torch\nBoolStorage"))
    Path("a.pt").write_bytes(zipped(pickled, {"0": b"\x00\x01\x02\xff"}))
    found = read("a.pt")["0"]
    assert found.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_a_file_that_changes_after_it_was_opened_is_noticed() -> None:
    write("a.pt", {"a": np.zeros(3, np.float32)})
    found = read("a.pt")
    write("a.pt", {"a": np.ones(3, np.float32)})
    with pytest.raises(InputError, match=r"a\.pt: .* a: the file has changed"):
        found["a"]
    Path("a.pt").unlink()
    with pytest.raises(InputError, match="No such file"):
        found["a"]


# What is written. ---------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "weight": rng.normal(size=(4, 3)).astype(np.float32),
        "transposed": rng.normal(size=(4, 3)).astype(np.float32).T,
        "half": np.array([1.5, -0.0], np.float16),
        "bf": np.array([[1.5, 3e38]], jnp.bfloat16),
        "ids": np.array([-1, 2**62]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "Straße \U0001f9ec": np.arange(3),
        "many": np.zeros((3, 1, 300), np.float32),
    }
    write("a.pt", tensors)
    found = read(Path("a.pt"))
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    write("b.pt", tensors)
    assert Path("b.pt").read_bytes() == Path("a.pt").read_bytes()
    assert sorted(os.listdir()) == ["a.pt", "b.pt"]
    write("c.pt", {})
    assert len(read("c.pt")) == 0


@pytest.mark.parametrize("big", [1 << 30, 10])
def test_storages_start_at_multiples_of_64(big, monkeypatch) -> None:
    monkeypatch.setattr(torch_file, "_BIG", big)  # the sizes of big entries are longer
    write("a.pt", {"a": np.arange(3), "b": np.zeros(1, np.float32), "c": np.arange(5)})
    with open("a.pt", "rb") as file:
        places = torch_file._entries(file)
    assert [start % 64 for start, _ in places.values()] == [0] * 6
    np.testing.assert_array_equal(read("a.pt")["c"], np.arange(5))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a": np.zeros(2)}, "a: expected one of float32, .* found float64"),
        ({"a": np.zeros(2, ">f4")}, "found >f4"),
        ({"\ud800": np.zeros(2, np.float32)}, "Unicode"),
        ({3: np.zeros(2, np.float32)}, "names, found 3"),
    ],
)
def test_what_cannot_be_written_is_refused(tensors, why) -> None:
    with pytest.raises(InputError, match=why):
        write("a.pt", tensors)
    assert os.listdir() == []


def test_a_failed_write_leaves_the_old_file(monkeypatch) -> None:
    write("a.pt", {"a": np.ones(2, np.float32)})

    def full(*_args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write("a.pt", {"a": np.zeros(2, np.float32)})
    assert os.listdir() == ["a.pt"] and read("a.pt")["a"][0] == 1


# What is refused: damage. -------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "other bytes"),
        (b"\x93NUMPY and so on", "other bytes"),
        (b"PK\x03\x04", "a whole zip archive"),
        (b"\x80\x02", "a whole pickle"),
        (pickle.dumps({"a": 1}, 2), "another pickle"),
        (legacy(state(tensor()), SIX)[:-1], "expected .* bytes or more"),
        (legacy(state(tensor()), SIX) + b"\0", "bytes, found"),
        (legacy(state(tensor()), SIX, machine={"little_endian": False}), "endian"),
        (legacy(b"", {}).replace(b"M\xe9\x03.", b"M\xea\x03."), "version 1001"),
        (legacy(state(tensor()), SIX, keys=[]), "the storages of the tensors"),
        (legacy(state(tensor()), SIX, keys=["0", "0"]), "the storages of the tensors"),
        (legacy(state(tensor()), SIX, keys={"0": 1}), "a list of the keys"),
        (legacy(state(tensor(), tensor(count=7)), SIX), "one type and length"),
        (legacy(state(tensor(count=7)), SIX), "storage 0 with 7 numbers"),
        (legacy(state(tensor()), {"0": bytes(24), "1": b""}), "the storages of the"),
        (zipped(state(tensor()), SIX)[:-30], "a whole zip archive"),
        (zipped(state(tensor()), SIX, method=8), "uncompressed"),
        (zipped(state(tensor()), SIX, entries={"byteorder": b"big"}), "little-endian"),
        (zipped(state(tensor()), SIX, entries={"data.pkl": None}), r"data\.pkl, found"),
        (zipped(state(tensor()), SIX, entries={"constants.pkl": b""}), "TorchScript"),
        (zipped(state(tensor()), {"0": bytes(23)}), "6 numbers of 4 bytes .* 23"),
        (zipped(state(tensor()), {"0": bytes(25)}), "6 numbers of 4 bytes .* 25"),
        (zipped(state(tensor(count=7)), SIX), "7 numbers of 4 bytes .* 24"),
        (zipped(state(tensor()), {"1": bytes(24)}), "entry archive/data/0"),
        (zipped(b"\x80\x02}.}", {}).replace(b"archive/v", b"brchive/v"), "one folder"),
        (zipped(bytes(9 << 20), {}), "at most"),
        (b"PK\x05\x06" + bytes(18), "other bytes"),
        (b"PK\x03\x04PK\x05\x06" + bytes(18), "an empty archive"),
    ],
    # The time is in an archive, and all workers have to find the same names.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_refused(content, why) -> None:
    refused(content, why)


def test_names_with_zero_bytes_are_other_names() -> None:
    content = zipped(state(tensor()), {"0_": SIX["0"]})
    content = content.replace(b"archive/data/0_", b"archive/data/0\0")
    refused(content, "an entry archive/data/0, found none")


def test_an_entry_that_is_there_twice_is_refused() -> None:
    content = zipped(state(tensor()), SIX | {"1": bytes(24)})
    refused(content.replace(b"archive/data/1", b"archive/data/0"), "once")


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (42, 2**31, "a header of .* found none"),  # where its local header lies
        (42, 3, "a header of .* found other bytes"),
        (20, 2**31, "uncompressed"),
        (6, 99, "whole zip archive, .*NotImplementedError"),  # a zip of the future
        (8, 1, "uncompressed"),  # encrypted
    ],
)
def test_a_directory_that_lies_is_refused(at, value, why) -> None:
    content = bytearray(zipped(state(tensor()), SIX))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + at : entry + at + 4] = struct.pack("<I", value)
    refused(bytes(content), why)


def test_a_header_beyond_all_files_is_refused() -> None:
    content = bytearray(zipped(state(tensor()), SIX))
    entry = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    content[entry + 42 : entry + 46] = b"\xff" * 4  # a 64-bit number, further on
    content[entry + 30 : entry + 32] = struct.pack("<H", 12)
    size = struct.unpack("<I", content[end + 12 : end + 16])[0] + 12
    content[end + 12 : end + 16] = struct.pack("<I", size)
    content[end:end] = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    refused(bytes(content), "a header of .* found none")


def test_an_entry_that_claims_more_than_the_file_is_refused() -> None:
    content = bytearray(zipped(state(tensor()), SIX))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    refused(bytes(content), "2147483648 bytes of .* found fewer")


def test_a_local_header_of_another_name_is_refused() -> None:
    content = zipped(state(tensor()), SIX)
    refused(content.replace(b"archive/data/0", b"archive/data/1", 1), "another name")


def test_what_is_no_file_is_refused(tmp_path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(InputError, match="expected a file, found none"):
            read(path)


def test_a_file_that_may_not_be_read_is_refused() -> None:
    Path("a.pt").symlink_to("a.pt")
    with pytest.raises(InputError, match="expected a file"):
        read("a.pt")


# What is refused: tensors that are none. ----------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (tensor(shape=(2, 4)), "a storage that holds its tensor"),
        (tensor(strides=(4, 1)), "a storage that holds its tensor"),
        (tensor(offset=1), "a storage that holds its tensor"),
        (tensor(offset=-1), "at least 0"),
        (tensor(shape=(-2, -3)), "at least 0"),
        (tensor(strides=(3, -1)), "at least 0"),
        (tensor(shape=(10**9, 1), strides=(0, 0)), "a storage that holds its tensor"),
        (tensor(shape=(2**600, 1)), "at least 0"),
        (tensor(shape=(0, *[2**40] * 2), strides=(1, 1, 1)), "fits in memory"),
        (tensor(shape=(2,)), "as many strides"),
        (tensor(shape=(1,) * 65, strides=(1,) * 65), "64 at most"),
        (tensor(count=-6), "a number of numbers"),
        (tensor(count=2**300), "a number of numbers"),
        (tensor(key="../0"), "a number as the key"),
        (tensor(key="²"), "a number as the key"),
        (tensor(type="torch\nQInt8Storage"), r"global torch\.QInt8Storage"),
        (tensor(type="torch.storage\nUntypedStorage"), "unknown arguments"),
        (tensor(type="collections\nOrderedDict"), "no storage"),
        (tensor(view=text("1")), "no storage"),
        (tensor(hooks=b"}(" + text("f") + b"K\x01u"), "unknown arguments"),
        (tensor(metadata=b"}(" + text("neg") + b"\x88u"), "unknown arguments"),
        (tensor().replace(b"tR", b"tRK\x01\x85R"), "a call of something of type"),
        (untyped(hooks=b"}(" + text("f") + b"K\x01u"), "unknown arguments"),
        (untyped(type="torch\nByteStorage"), "unknown arguments"),
        (untyped(dtype=text("uint16")), "unknown arguments"),
        (untyped(dtype=b"ctorch\nFloatStorage\n"), "unknown arguments"),
        (untyped(dtype=b"ctorch\nfloat8_e4m3fn\n"), r"global torch\.float8_e4m3fn"),
        (b"K\x01Q", "no storage"),
        (b"]Q", "no storage"),
        (b"(" + text("storage") + b"tQ", "no storage"),
        (text("storage") + b"Q", "no storage"),
        (storage(), "a Storage named '0'"),
        (b"K\x01", "a int named '0'"),
        (state(tensor())[2:-1], "a flat dict of tensors, found a dict named '0'"),
        (b"ctorch\nfloat32\n", "a Global named '0'"),
        (b"ctorch\nfloat32\n)R", "a call of torch.float32"),
        (b"ccollections\nOrderedDict\n(K\x01tR", "a call of collections.OrderedDict"),
    ],
)
def test_tensors_that_are_none_are_refused(format, value, why) -> None:
    refused(MAKERS[format](state(value), SIX), why)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"\x80\x02].", "a dict of tensors, found a list"),
        (b"\x80\x02}K\x01K\x02s.", "texts as names, found a name of type int"),
        (b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\x02s.", "a name of type tuple"),
        (b"\x80\x02}" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s.", "a whole pickle"),
        (b"\x80\x02}q\x00X\1\0\0\0ah\x00s.", "a dict named 'a'"),  # itself
        (b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu.", "every name once, found 'a' twice"),
        (b"\x80\x02}(X\3\0\0\0\xed\xa0\x80Nu.", "Unicode texts"),
        (b"\x80\x02}(Nu.", "a whole pickle"),
        (b"\x80\x02}", "a whole pickle"),
        (b"\x80\x02.", "a whole pickle"),
        (b"\x80\x02}}.", "a whole pickle"),
        (b"\x80\x02(}.", "a whole pickle"),
        (b"\x80\x02}Na.", "a whole pickle, .* no list"),
        (b"\x80\x02t.", "a whole pickle"),
        (b"\x80\x02\x87.", "a whole pickle"),
        (b"\x80\x02h\x05.", "a whole pickle"),
        (b"\x80\x02}X\xff\xff\xff\xffab.", "a whole pickle"),
        (b"\x80\x04}\x8d" + b"\xff" * 8 + b"ab.", "a whole pickle"),
        (b"\x80\x02}r\xff\xff\xff\xff0.", "the instruction POP"),  # a huge memo
        (b"\x80\x02}\x1b[31m.", "a whole pickle"),
        (b"\x80\x02K\x01}b.", "attributes of a int"),
        (b"\x80\x02}Nb.", "attributes of a dict"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "attributes of a Global"),
        (b"\x80\x02" + tensor() + b"}b.", "attributes of a Tensor"),
    ],
)
def test_pickles_of_other_things_are_refused(format, pickled, why) -> None:
    refused(MAKERS[format](pickled, SIX), why)


# What is refused: code. ---------------------------------------------------------------


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


TOUCH = text("touch pwned") + b"\x85"
CODE = {
    "a call of os.system": (
        pickle.dumps({"a": Call(os.system, "touch pwned")}, 2),
        r"global posix\.system|global nt\.system",
    ),
    "a call of open": (
        pickle.dumps({"a": Call(open, "pwned", "w")}, 2),
        r"global _?io\.open",
    ),
    "a call of eval": (
        pickle.dumps({"a": Call(builtins.eval, "open('pwned', 'w')")}, 2),
        r"global __builtin__\.eval",
    ),
    "a call of a Path's method": (
        pickle.dumps({"a": Call(Path.touch, Path("pwned"))}, 4),
        r"global pathlib",
    ),
    "protocol 0": (pickle.dumps({"a": Call(os.system, "touch pwned")}, 0), "DICT"),
    "a module of PyTorch that imports os": (
        state(b"ctorch._utils\nos.system\n" + TOUCH + b"R"),
        r"global torch\._utils\.os\.system",
    ),
    "a dotted name off the stack": (
        state(text("torch._utils") + text("sys.modules") + b"\x93" + TOUCH + b"R"),
        r"global torch\._utils\.sys\.modules",
    ),
    "a dotted name behind an allowed one": (
        state(
            text("collections")
            + text("OrderedDict.__init__.__globals__")
            + b"\x93"
            + TOUCH
            + b"R"
        ),
        r"global collections\.OrderedDict\.__init__",
    ),
    "a name that is no text": (state(b"K\x01K\x02\x93"), "whose name is no text"),
    "a loader inside of PyTorch": (
        state(b"ctorch.serialization\nload\n" + TOUCH + b"R"),
        r"global torch\.serialization\.load",
    ),
    "getattr": (
        state(b"c__builtin__\ngetattr\n(ctorch\nfloat32\n" + text("x") + b"tR"),
        r"global __builtin__\.getattr",
    ),
    "an ordered dict that calls for its items": (
        state(b"ccollections\nOrderedDict\n(cos\nsystem\n" + TOUCH + b"RtR"),
        r"global os\.system",
    ),
    "an ordered dict with items": (
        state(b"ccollections\nOrderedDict\n(]" + b"tR"),
        r"call of collections\.OrderedDict",
    ),
    "a default dict that calls": (
        state(b"ccollections\ndefaultdict\n(cos\nabort\ntR"),
        r"global collections\.defaultdict",
    ),
    "hooks that call": (
        state(tensor(hooks=b"(cos\nsystem\n" + TOUCH + b"Rt")),
        r"global os\.system",
    ),
    "INST": (
        state(b"(" + text("touch pwned") + b"ios\nsystem\n"),
        "instruction INST os system",
    ),
    "OBJ": (
        state(b"(ccollections\nOrderedDict\n" + text("a") + b"o"),
        "instruction OBJ",
    ),
    "OBJ of another global": (
        state(b"(cos\nsystem\n" + text("touch pwned") + b"o"),
        r"global os\.system",
    ),
    "NEWOBJ": (
        state(b"ccollections\nOrderedDict\n)\x81"),
        "instruction NEWOBJ",
    ),
    "NEWOBJ_EX": (
        state(b"ccollections\nOrderedDict\n)}\x92"),
        "instruction NEWOBJ_EX",
    ),
    "an extension": (state(b"\x82\x01"), "instruction EXT1 1"),
    "a persistent id in text": (state(b"Ppwned\n"), "instruction PERSID pwned"),
    "a state that replaces a function's code": (
        state(b"ctorch._utils\n_rebuild_tensor_v2\nN}\x86b"),
        "attributes of a Global",
    ),
    "an item of a function": (
        state(b"ctorch._utils\n_rebuild_tensor_v2\n" + text("a") + b"Ns"),
        "a whole pickle",
    ),
    "a control sequence for the terminal": (
        state(b"ca\x1b[31m\nb\n"),
        r"global a\\x1b\[31m\.b",
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("code", CODE)
def test_no_code_is_run(format, code) -> None:
    pickled, why = CODE[code]
    refused(MAKERS[format](pickled, SIX), why)


@pytest.mark.parametrize("at", range(5))
def test_no_pickle_of_a_legacy_file_runs_code(at) -> None:
    evil = pickle.dumps(Call(os.system, "touch pwned"), 2)
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
    parts += [pickle.dumps({"little_endian": True}, 2), b"\x80\x02}.", b"\x80\x02]."]
    Path("a.pt").write_bytes(b"".join(parts))
    assert len(read("a.pt")) == 0
    parts[at] = evil
    refused(b"".join(parts), r"global (posix|nt)\.system")


def test_the_attacks_are_attacks(empty_folder) -> None:
    # With Python's own pickle they do leave a file behind.
    pickle.loads(CODE["a call of os.system"][0])
    assert (empty_folder / "pwned").exists()


# What is refused: anything at all. ----------------------------------------------------

SMALL = {
    "zip": (GOLDEN / "linear.pt").read_bytes(),
    "legacy": legacy(state(tensor(), tensor((3,), (2,))), SIX),
}


@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    keep=st.floats(0, 1) | st.none(),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))),
)
def test_any_damage_gives_arrays_or_an_input_error(format, keep, flips) -> None:
    content = bytearray(SMALL[format])
    for at, value in flips:
        content[int(at * len(content))] = value
    if keep is not None:
        del content[int(keep * len(content)) :]
    path = Path("a.pt")
    path.write_bytes(content)
    try:
        found = read(path)
        for array in found.values():
            assert array.size <= len(content)
            array.tobytes()
    except InputError as error:
        assert str(error).startswith("a.pt: ") and str(error).isprintable()
    finally:
        path.unlink()
    assert list(Path().iterdir()) == []


def test_what_is_written_can_be_read_by_others_than_the_owner() -> None:
    write("a.pt", {"a": np.zeros(2, np.float32)})
    Path("b").touch()
    assert stat.S_IMODE(os.stat("a.pt").st_mode) == stat.S_IMODE(os.stat("b").st_mode)
