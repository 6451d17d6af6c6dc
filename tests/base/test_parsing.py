"""Text, arrays and pictures of anybody: what is broken or too large is told in one line."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdtbench.assets.images import open_image, pixels, read_rgba
from mdtbench.base.arrays import read_arrays
from mdtbench.base.errors import AssetError, MissingError
from mdtbench.base.files import read_json
from mdtbench.base.limits import Limits, use_limits
from mdtbench.base.parsing import parse_json, parse_toml, whole_number

DAMAGED = Path(__file__).parents[1] / "cases" / "damaged"


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, "[" * 100_000, '{"a":' * 100_000, "[" * 65 + "]" * 65])
def test_json_that_is_nested_too_deep_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match=r"nested deeper|limits\.nesting|Expecting"):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MissingError, match="is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_what_is_within_the_limits_is_read():
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_toml("a = " + "[" * 63 + "]" * 63)
    assert parse_json('{"a": 12345678901234567890, "b": 1e300}') == {"a": 12345678901234567890, "b": 1e300}
    assert whole_number("12") == 12


@pytest.mark.parametrize("digits", [21, 400, 4301, 100_000])
def test_whole_numbers_have_a_limit_of_digits(digits):
    for parse, text in ((parse_json, "9" * digits), (parse_toml, f"a = {'9' * digits}"), (whole_number, "9" * digits)):
        with pytest.raises(ValueError, match="digits"):
            parse(text)


def test_toml_that_is_nested_too_deep_is_refused():
    for text in ("a = " + "[" * 100 + "]" * 100, "a = " + "[" * 50_000, "a." * 3000 + "b = 1"):
        with pytest.raises(ValueError, match=r"nested|limits\.nesting"):
            parse_toml(text)


@pytest.mark.parametrize("name", ["npz-declares-4TB.npz", "npz-header-eof.npz"])
def test_damaged_archives_are_told(name):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"announces|EOF"):
        read_arrays(DAMAGED / name)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_what_an_archive_unpacks_to_is_limited(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(3_000_000, np.uint8), one=np.ones(3))
    use_limits(Limits(unpacked_mb=2))
    try:
        with pytest.raises(ValueError, match=r"3 MB unpacked - 2 are allowed - .*limits\.unpacked_mb"):
            read_arrays(path)
        assert read_arrays(path, ["one"])["one"].tolist() == [1, 1, 1]
    finally:
        use_limits(Limits())
    assert len(read_arrays(path)["zeros"]) == 3_000_000


def test_archives_are_read_as_numpy_reads_them(tmp_path):
    arrays = {
        "f": np.arange(12.0).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 3), np.float32),
        "text": np.array(["ab", "c"]),
        "scalar": np.array(True),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="object"):
        read_arrays(tmp_path / "a.npz")


def test_an_unknown_compression_is_told(tmp_path):
    data = io.BytesIO()
    np.savez(data, a=np.ones(3))
    raw = bytearray(data.getvalue())
    start = raw.rfind(b"PK\x01\x02")
    raw[start + 10], raw[8] = 99, 99
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(ValueError, match="compression"):
        read_arrays(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", b"no array")
    with pytest.raises(ValueError, match="magic"):
        read_arrays(tmp_path / "b.npz")


def test_pictures_that_are_broken_or_too_large_are_told(tmp_path):
    broken = DAMAGED / "condition-broken-chunk.png"
    with pytest.raises(AssetError, match="not a readable picture"):
        open_image(broken)
    Image.new("1", (9000, 9000)).save(tmp_path / "black.png")
    with pytest.raises(AssetError, match=r"81,000,000 pixels .*limits\.pixels"):
        open_image(tmp_path / "black.png")
    with pytest.raises(AssetError, match="no such picture"):
        open_image(tmp_path / "absent.png")
    with pytest.raises(AssetError, match=r"b\.png: it is not a readable picture"):
        read_rgba(broken, "b.png")


def test_deep_grey_is_rounded_to_the_nearest():
    deep = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(pixels(Image.fromarray(deep))[..., 0], np.rint(deep / 257))
