"""promtool: found, fetched from Debian's package, or missing with a message that says the ways to get it."""

import shutil

import pytest

from tests.emulators.prometheus import PromtoolNotFoundError, ensure_promtool, find_promtool


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any program; returns its home."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("PROMTOOL", raising=False)
    return tmp_path


def program(home, name, body):
    path = home / "bin" / name
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{body}\n")
    path.chmod(0o755)
    return path


def test_it_is_found(bare, monkeypatch):
    assert find_promtool() is None
    path = program(bare, "promtool", "")
    assert ensure_promtool() == path
    monkeypatch.setenv("PROMTOOL", str(path))
    assert ensure_promtool() == path
    monkeypatch.setenv("PROMTOOL", str(bare / "absent"))
    with pytest.raises(PromtoolNotFoundError, match="absent"):
        ensure_promtool()


UNPACK = "/bin/mkdir -p $3/usr/bin; : > $3/usr/bin/promtool; /bin/chmod +x $3/usr/bin/promtool"


@pytest.mark.parametrize("needs_update", [False, True])
def test_it_is_fetched(bare, needs_update):
    """Also where no list of packages was fetched before."""
    refused = '[ -e updated ] || { [ "$1" = download ] && exit 100; }' if needs_update else ""
    update = 'for last; do :; done; [ "$last" = update ] && { : > updated; exit 0; }'
    program(bare, "apt-get", f"{refused}\n{update}\n: > prometheus_2.42.0_all.deb")
    program(bare, "dpkg", UNPACK)
    assert ensure_promtool() == bare / ".cache/langgraph-gcs-saver-tests/promtool"
    assert [one.name for one in ensure_promtool().parent.iterdir()] == ["promtool"]


def test_it_is_nowhere(bare):
    with pytest.raises(PromtoolNotFoundError, match="no apt-get on PATH") as caught:
        ensure_promtool()
    assert "PROMTOOL" in str(caught.value)
    program(bare, "apt-get", "echo no such package >&2; exit 100")
    program(bare, "dpkg", UNPACK)
    with pytest.raises(PromtoolNotFoundError, match="no such package"):
        ensure_promtool()
