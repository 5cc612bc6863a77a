"""Optional masking of e-mail addresses and public IPv4 addresses, as FineWeb does (arXiv 2406.17557, section 3.8).

What counts as an address is what datatrove's PIIFormatter takes for one, so four numbers with points between them (a
section "1.2.3.4") are an address too. The replacements are names and addresses that are reserved for examples (RFC
2606, RFC 5737), which are themselves never taken for public ones: masking twice changes nothing.
"""

from __future__ import annotations

import ipaddress
import string
from functools import cache
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from pocketlm.data.characters import NAME, character_classes, point_at, start_before
from pocketlm.data.kernels import kernel
from pocketlm.data.text import Text

EMAIL = "email@example.com"
ADDRESS = "192.0.2.1"
LOCAL_SIGNS = "!#$%&'*+/=?^_`{|}~-"
"""Signs that may stand in the part before the @ (RFC 5322, atext)."""

NOT_GLOBAL = (
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("240.0.0.0", 4),
)
"""Networks that are not globally reachable (IANA IPv4 special-purpose address registry); 192.0.0.9 and .10 are."""


def mask(texts: pa.Array, emails: bool, addresses: bool) -> pa.Array:
    """Texts with e-mail addresses as `email@example.com` and public IPv4 addresses as `192.0.2.1` (large_string)."""
    if emails:
        texts = _replaced(texts, _email_spans, (character_classes(), _local_table()), EMAIL)
    if addresses:
        texts = _replaced(texts, _address_spans, _networks(), ADDRESS)
    return texts


def _replaced(texts: pa.Array, find: Any, tables: tuple[np.ndarray, np.ndarray], replacement: str) -> pa.Array:
    text = Text.from_arrow(texts)
    room, number = 0, 4096
    while room < number:  # one more pass for a unit with more of them than anybody expects
        room = number
        spans = np.empty((room, 2), np.int64)
        number = find(text.data, text.offsets, *tables, spans)
    if number == 0:
        return texts
    spans = spans[:number]
    put = np.frombuffer(replacement.encode(), np.uint8)
    size = text.offsets[-1] - text.offsets[0] + number * len(put) - (spans[:, 1] - spans[:, 0]).sum()
    out, offsets = np.empty(size, np.uint8), np.zeros(len(text) + 1, np.int64)
    _write(text.data, text.offsets, spans, put, out, offsets)
    return Text(out, offsets).to_arrow()


@cache
def _local_table() -> np.ndarray:
    """Which bytes may stand before the @, points aside."""
    allowed = string.ascii_letters + string.digits + LOCAL_SIGNS
    table = np.zeros(256, np.bool_)
    table[np.frombuffer(allowed.encode(), np.uint8)] = True
    return table


@cache
def _networks() -> tuple[np.ndarray, np.ndarray]:
    """First address and mask of every network of `NOT_GLOBAL`."""
    networks = [ipaddress.IPv4Network(network) for network in NOT_GLOBAL]
    first = np.array([int(network.network_address) for network in networks], np.int64)
    return first, np.array([int(network.netmask) for network in networks], np.int64)


@kernel
def _write(data, documents, spans, put, out, offsets):  # type: ignore[no-untyped-def]
    write, row = 0, 0
    for document in range(len(documents) - 1):
        at, end = documents[document], documents[document + 1]
        while row < len(spans) and spans[row, 0] < end:
            length = spans[row, 0] - at
            out[write : write + length] = data[at : at + length]
            write += length
            out[write : write + len(put)] = put
            write += len(put)
            at = spans[row, 1]
            row += 1
        out[write : write + end - at] = data[at:end]
        write += end - at
        offsets[document + 1] = write


@kernel
def _email_spans(data, documents, classes, local, spans):  # type: ignore[no-untyped-def]
    """Begin and end of every e-mail address, as many as `spans` has room for; gives how many there are."""
    number = 0
    for document in range(len(documents) - 1):
        free, end = documents[document], documents[document + 1]
        for at in range(documents[document], end):
            if data[at] != 64 or at <= free or not local[data[at - 1]]:
                continue
            start = _local_start(data, documents[document], free, at, classes, local)
            stop = _domain_end(data, at + 1, end)
            if start >= 0 and stop >= 0:
                if number < len(spans):
                    spans[number, 0], spans[number, 1] = start, stop
                number += 1
                free = stop
    return number


@kernel
def _local_start(data, document, free, at, classes, local):  # type: ignore[no-untyped-def]
    """Leftmost byte, not before `free`, at which the part before the @ may begin: at a border between letters, digits
    or `_` and anything else. -1: none."""
    start = at - 1
    while start > free and (
        local[data[start - 1]] or (data[start - 1] == 46 and start - 1 > free and local[data[start - 2]])
    ):
        start -= 1 if local[data[start - 1]] else 2
    for place in range(start, at):
        if data[place] == 46:
            continue
        inside = classes[data[place]] & NAME != 0
        before = False
        if place > document:
            previous = start_before(data, place)
            before = classes[point_at(data, previous, place - previous)] & NAME != 0
        if inside != before:
            return place
    return -1


@numba.njit(inline="always")
def _alphanumeric(byte: int) -> bool:
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


@kernel
def _domain_end(data, at, end):  # type: ignore[no-untyped-def]
    """End of the longest domain of at least two labels, or of an address in brackets, that begins at `at`; -1: none."""
    if at < end and data[at] == 91:
        return _literal_end(data, at + 1, end)
    labels, stop = 0, -1
    while at < end and _alphanumeric(data[at]):
        while at < end and (_alphanumeric(data[at]) or data[at] == 45):
            at += 1
        solid = at
        while data[solid - 1] == 45:
            solid -= 1
        if labels:
            stop = solid
        if solid < at or at >= end or data[at] != 46:
            break
        labels += 1
        at += 1
    return stop


@kernel
def _literal_end(data, at, end):  # type: ignore[no-untyped-def]
    """End behind the bracket of `1.2.3.4]` (RFC 5321 address literal; the last part may be a tag and a colon)."""
    for _ in range(3):
        digits = _octet(data, at, end)
        if digits == 0 or at + digits >= end or data[at + digits] != 46:
            return -1
        at += digits + 1
    digits = _octet(data, at, end)
    if digits and at + digits < end and data[at + digits] == 93:
        return at + digits + 1
    start = at
    while at < end and (_alphanumeric(data[at]) or data[at] == 45):
        at += 1
    tagged = at > start and data[at - 1] != 45 and at + 1 < end and data[at] == 58 and data[at + 1] == 93
    return at + 2 if tagged else -1


@kernel
def _octet(data, at, end):  # type: ignore[no-untyped-def]
    """Digits of the number up to 255 at `at`, as many as belong to it."""
    value, digits = 0, 0
    while digits < 3 and at + digits < end and 48 <= data[at + digits] <= 57:
        value = value * 10 + np.int64(data[at + digits]) - 48
        if value > 255:
            break
        digits += 1
    return digits


@kernel
def _address_spans(data, documents, networks, masks, spans):  # type: ignore[no-untyped-def]
    """Begin and end of every public IPv4 address, as many as `spans` has room for; gives how many there are."""
    number = 0
    for document in range(len(documents) - 1):
        start, end = documents[document], documents[document + 1]
        while start < end:
            if data[start] < 48 or data[start] > 57:
                start += 1
                continue
            at, address, plain = start, 0, True
            for part in range(4):
                digits = _octet(data, at, end)
                dotted = part == 3 or (at + digits < end and data[at + digits] == 46)
                if digits == 0 or not dotted:
                    at = -1
                    break
                value = 0
                for place in range(digits):
                    value = value * 10 + np.int64(data[at + place]) - 48
                plain = plain and (digits == 1 or data[at] != 48)  # a leading zero is no address
                address = address * 256 + value
                at += digits + (part < 3)
            if at < 0:
                start += 1
                continue
            public = plain
            for row in range(len(networks)):
                public = public and address & masks[row] != networks[row]
            if public or (plain and (address == 0xC0000009 or address == 0xC000000A)):
                if number < len(spans):
                    spans[number, 0], spans[number, 1] = start, at
                number += 1
            start = at
    return number
