# SPDX-License-Identifier: Apache-2.0
"""Where does an element of DER begin and end? For structures that the X.509 library has read whole before.

The library copies what was signed and makes objects of every name on each question; here they are slices.
"""

from __future__ import annotations


def first_elements(sequence: bytes, count: int) -> list[bytes]:
    """Give the first `count` elements of a SEQUENCE (ITU-T X.690, 8.1), each with its header."""
    found, _ = _elements(sequence, count)
    return found


def elements_and_rest(sequence: bytes, count: int) -> tuple[list[bytes], bytes]:
    """Give the first `count` elements of a SEQUENCE, and all that follows. Raises ValueError if it has fewer."""
    try:
        found, at = _elements(sequence, count)
    except IndexError:
        raise ValueError("fewer elements") from None
    return found, sequence[at:]


def _elements(sequence: bytes, count: int) -> tuple[list[bytes], int]:
    found = []
    size = sequence[1]
    at = 2 if size < 0x80 else 2 + (size & 0x7F)
    for _ in range(count):
        size, begin = sequence[at + 1], at + 2  # one octet of tag, definite length
        if size >= 0x80:
            width = size & 0x7F
            size = int.from_bytes(sequence[begin : begin + width], "big")
            begin += width
        end = begin + size
        found.append(sequence[at:end])
        at = end
    return found, at
