"""Dataclasses that are cheap to define: a process that starts defines seventy of them, and a put makes dozens.

`dataclass(frozen=True, slots=True)` compiles six methods for each class, half a millisecond together on Python 3.11,
and sets each field of each instance by a call. A `record` compiles `__init__` alone; what compares, hashes and shows
records is common to all. To a type checker it is the dataclass that its arguments say, `frozen` included; while the
program runs nothing stops who sets a field all the same. What users hand in, and is checked when it is made, stays a
frozen dataclass: options and retention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import dataclass, fields
    from typing import Literal

    C = TypeVar("C")

    def record(*, frozen: Literal[True], slots: Literal[True], kw_only: bool = False) -> Callable[[type[C]], type[C]]:
        """A dataclass with slots, frozen as far as type checkers see to it."""

        def define(cls: type[C]) -> type[C]:
            made = dataclass(eq=not frozen, repr=False, slots=slots, kw_only=kw_only)(cls)
            made.__compared__ = tuple([one.name for one in fields(made) if one.compare])
            made.__shown__ = tuple([one.name for one in fields(made) if one.repr])
            made.__eq__, made.__hash__, made.__repr__ = _eq, _hash, _repr
            return made

        return define


__all__ = ["record"]


def _values(one: Any) -> tuple[Any, ...]:
    return tuple([getattr(one, name) for name in one.__compared__])


def _eq(one: Any, other: object) -> bool:
    return _values(one) == _values(other) if other.__class__ is one.__class__ else NotImplemented


def _hash(one: Any) -> int:
    return hash(_values(one))


def _repr(one: Any) -> str:
    told = ", ".join(f"{name}={getattr(one, name)!r}" for name in one.__shown__)
    return f"{type(one).__qualname__}({told})"
