"""The bytes that two large values have in common from given positions on, found without copying the values."""

from __future__ import annotations

_STEP = 4 << 10


def same_after(one: bytes, at: int, other: bytes, from_: int) -> int:
    """How many bytes are the same from position `at` of one value and `from_` of the other on."""
    view, most = memoryview(other), min(len(one) - at, len(other) - from_)
    found, step = 0, _STEP
    grows = True
    while found < most and step:
        step = min(step, most - found)
        # `bytes.startswith` compares without a copy.
        if one.startswith(view[from_ + found : from_ + found + step], at + found):
            found += step
            step = 2 * step if grows else step
        elif step == 1:
            break
        else:
            most, step, grows = found + step - 1, step // 2, False
    return max(found, 0)


def same_before(one: bytes, at: int, other: bytes, from_: int, most: int) -> int:
    """How many bytes are the same before position `at` of one value and `from_` of the other; at most `most`."""
    view, found, step = memoryview(other), 0, _STEP
    grows = True
    while found < most and step:
        step = min(step, most - found)
        end = from_ - found
        if one.endswith(view[end - step : end], 0, at - found):
            found += step
            step = 2 * step if grows else step
        elif step == 1:
            break
        else:
            most, step, grows = found + step - 1, step // 2, False
    return found
