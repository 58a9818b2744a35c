"""Checks that are left out, to see that the fuzzer notices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph_gcs_saver.format import frames, manifest, shapes
from langgraph_gcs_saver.format.frames import Codec


def _nothing(*_: Any) -> None:
    pass


def sizes_of_frames() -> None:
    """A frame may say that it holds anything."""
    check = frames._check_size
    frames._check_size = lambda stored, _, **options: check(stored, lambda _: True, **options)


def sizes_of_heads() -> None:
    """JSON of any size is parsed."""
    frames.is_too_large = lambda *_: False


def sizes_of_states() -> None:
    """A checkpoint may have any number of large values."""
    Codec.refuse_large_state = _nothing


def shapes_of_manifests() -> None:
    """A checkpoint's fields may be anything."""
    shapes.wrong_in_checkpoint = _nothing
    shapes.wrong_in_metadata = _nothing


def numbers_of_manifests() -> None:
    """So may sizes and offsets."""
    manifest._natural = lambda value: value


def json_that_is_none() -> None:
    """Texts that are no JSON raise what the parser raises."""
    parse = frames._parse

    class Head(Exception):  # noqa: N818 - stands for any error that no caller expects
        pass

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise Head from None

    frames._parse = parsed


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "sizes of frames": sizes_of_frames,
    "sizes of heads": sizes_of_heads,
    "sizes of states": sizes_of_states,
    "shapes of manifests": shapes_of_manifests,
    "numbers of manifests": numbers_of_manifests,
    "json that is none": json_that_is_none,
}
