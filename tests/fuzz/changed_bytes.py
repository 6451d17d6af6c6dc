"""Files made worse: bits, bytes, numbers, pieces moved, cut, repeated, and what people's tools are known to write."""

from __future__ import annotations

import random
import re

NASTY = (
    b"-1", b"0", b"1e400", b"NaN", b"Infinity", b"99999999999999999999999", b"9" * 4301, b"1" * 400, b"4294967295",
    b"[" * 2000, b'{"a":' * 2000, b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b'"', b"null", b"true", b"[]", b"{}",
    b"/dev/zero", b"../../../../../etc/passwd", b"a" * 300, b"\x1b[2J", b"=cmd|' /C calc'!A0", b"\xed\xa0\x80",
    b"1_000",
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def mutated(data: bytes, generator: random.Random) -> bytes:
    """The file after one to four changes."""
    for _ in range(generator.randint(1, 4)):
        data = generator.choice(CHANGES)(data, generator)
    return data


def _flip(data: bytes, generator: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 8))):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _cut(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _drop(data: bytes, generator: random.Random) -> bytes:
    start, stop = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[min(stop, start + 64) :]


def _repeat(data: bytes, generator: random.Random) -> bytes:
    start, stop = sorted(generator.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[start : min(stop, start + 64)] * generator.choice((2, 3, 50)) + data[stop:]


def _insert(data: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(data) + 1)
    return data[:at] + generator.choice(NASTY) + data[at:]


def _number(data: bytes, generator: random.Random) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    one = generator.choice(found)
    return data[: one.start()] + generator.choice(NASTY) + data[one.end() :]


def _word(data: bytes, generator: random.Random) -> bytes:
    """A little-endian 32-bit number of a binary header."""
    at = generator.randrange(max(1, len(data) - 3))
    return data[:at] + generator.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")) + data[at + 4 :]


def _swap(data: bytes, generator: random.Random) -> bytes:
    lines = data.split(b"\n")
    generator.shuffle(lines)
    return b"\n".join(lines)


CHANGES = (_flip, _flip, _cut, _drop, _repeat, _insert, _number, _number, _word, _swap)
