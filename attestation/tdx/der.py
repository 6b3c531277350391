# SPDX-License-Identifier: Apache-2.0
"""Where does an element of DER begin and end? For structures that the X.509 library has read whole before.

The library copies what was signed and makes objects of every name on each question; here they are slices.
"""

from __future__ import annotations


def first_elements(sequence: bytes, count: int) -> list[bytes]:
    """Give the first `count` elements of a SEQUENCE (ITU-T X.690, 8.1), each with its header."""
    found = []
    at, _ = _bounds(sequence, 0)
    for _ in range(count):
        _, end = _bounds(sequence, at)
        found.append(sequence[at:end])
        at = end
    return found


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Give where the content of the element at `at` begins and ends: one octet of tag, definite length."""
    size = data[at + 1]
    begin = at + 2
    if size >= 0x80:
        width = size & 0x7F
        size = int.from_bytes(data[begin : begin + width], "big")
        begin += width
    return begin, begin + size
