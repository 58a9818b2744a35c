"""Dataclasses that are cheap to define: a process defines seventy of them when it starts, and a put makes dozens.

`dataclass(frozen=True, slots=True)` compiles six methods for each class, which takes half a millisecond on Python 3.11.
It also sets each field of each instance by a call. A `record` compiles `__init__` only; all records share the methods
that compare, hash and show them. To a type checker, a record is the dataclass that its arguments describe, `frozen`
included. At run time nothing prevents code from setting a field. Options and retention rules stay frozen dataclasses,
because users make them, and they are checked when they are made.
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
        """A dataclass with slots, frozen only to type checkers."""

        def define(cls: type[C]) -> type[C]:
            made = dataclass(eq=not frozen, repr=False, slots=slots, kw_only=kw_only)(cls)
            made.__compared__ = tuple([one.name for one in fields(made) if one.compare])
            made.__hashed__ = tuple([one.name for one in fields(made) if one.compare and one.hash is not False])
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
    return hash(tuple([getattr(one, name) for name in one.__hashed__]))


def _repr(one: Any) -> str:
    shown = ", ".join(f"{name}={getattr(one, name)!r}" for name in one.__shown__)
    return f"{type(one).__qualname__}({shown})"
