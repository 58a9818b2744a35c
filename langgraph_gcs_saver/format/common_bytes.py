"""The lengths of the common beginning and end of two large values, found without copying the values."""

from __future__ import annotations

_BLOCK = 64 << 10


def same_from(at: int, one: bytes, other: bytes) -> int:
    """The first position from `at` on where two values differ."""
    view, end = memoryview(other), min(len(one), len(other))
    step = _BLOCK
    while at < end and step:
        step = min(step, end - at)
        # `bytes.startswith` compares without a copy.
        if one.startswith(view[at : at + step], at):
            at += step
        elif step == 1:
            break
        else:
            end, step = at + step - 1, step // 2
    return at


def same_to_end(most: int, one: bytes, other: bytes) -> int:
    """How many bytes two values have in common at their ends; at most `most`."""
    view, found, step = memoryview(other), 0, _BLOCK
    while found < most and step:
        step = min(step, most - found)
        end = len(other) - found
        if one.endswith(view[end - step : end], 0, len(one) - found):
            found += step
        elif step == 1:
            break
        else:
            most, step = found + step - 1, step // 2
    return found
