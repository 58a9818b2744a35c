"""The asynchronous halves are written from the synchronous ones."""

from pathlib import Path

import pytest

from tests import twins

SOURCE = '''
class Admin:
    def count(self, ids: Iterator[str]) -> int:
        """How many.

        More.
        """
        return run(flow(ids), self._backend)

    async def acount(self) -> int:
        """An old twin."""

    def double(self) -> int:
        """Twice."""
        return 2 * self.admin.count(self.name)

    def single(self) -> int:
        """No I/O."""
        return self._size

    def close(self) -> None:
        """By hand."""
        run(flow(), self._backend)
'''

MADE = '''
class Admin:
    def count(self, ids: Iterator[str]) -> int:
        """How many.

        More.
        """
        return run(flow(ids), self._backend)

    async def acount(self, ids: AsyncIterator[str]) -> int:
        """Asynchronous twin of `count`: an asynchronous iterator, for `async for`, not to be awaited."""
        return await arun(flow(ids), self._backend)

    def double(self) -> int:
        """Twice."""
        return 2 * self.admin.count(self.name)

    async def adouble(self) -> int:
        """Asynchronous twin of `double`."""
        return 2 * await self.admin.acount(self.name)

    def single(self) -> int:
        """No I/O."""
        return self._size

    def close(self) -> None:
        """By hand."""
        run(flow(), self._backend)
'''


def test_twins_are_written_and_written_again() -> None:
    known = frozenset(twins.names(SOURCE))
    assert known == {"count", "double"}
    assert twins.with_twins(SOURCE, known) == MADE
    assert twins.with_twins(MADE, known) == MADE


def test_a_changed_twin_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert twins.main(["--check"]) == 0
    for source in twins.SOURCES:
        path = tmp_path / source
        path.parent.mkdir(exist_ok=True)
        text = (twins.PACKAGE / source).read_text()
        path.write_text(text.replace("await arun(", "await arun( ", 1) if source.endswith("admin.py") else text)
    monkeypatch.setattr(twins, "PACKAGE", tmp_path)
    assert twins.main(["--check"]) == 1
    assert twins.main([]) == 0
    assert twins.main(["--check"]) == 0
