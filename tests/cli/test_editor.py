"""`edit` with editors of all kinds: quoted, missing, crashing, leaving files behind. Nothing is lost, nothing leaks."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys

import pytest

from tests.behaviour.api import cfg
from tests.cli.filled import numbers
from tests.cli.stored import put
from tests.cli.test_demo import LANGGRAPH_GCS
from tests.patience import PATIENCE

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

OLD, NEW = "Zürich", "Genève"
WRITE = f"path.write_text({json.dumps(NEW)!r}, encoding='utf-8')"
EDIT = ("edit", "t", "--channel", "x")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The directory for temporary files, with nothing in it."""
    found = tmp_path / "temporary"
    found.mkdir()
    monkeypatch.setenv("TMPDIR", str(found))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.fixture
def value(make_saver):
    """A thread with a value. A function that reads the value."""
    saver = make_saver()
    put(saver, {"x": OLD})
    return lambda: saver.get_tuple(cfg()).checkpoint["channel_values"]["x"]


@pytest.fixture
def script(tmp_path):
    """Writes an editor, a Python program; the file that it edits is its `path`, what else it got in `arguments`."""

    def write(code, name="my ed"):
        found = tmp_path / name
        head = (
            "import json, os, signal, sys, time\nfrom pathlib import Path\n"
            "here, path = Path(__file__).parent, Path(sys.argv[-1])\narguments = sys.argv[1:-1]\n"
        )
        found.write_text(f"#!{sys.executable}\n{head}{code}\n", encoding="utf-8")
        found.chmod(0o755)
        return found

    return write


@pytest.fixture
def editor(script, monkeypatch):
    """Makes a program the editor."""
    return lambda code: monkeypatch.setenv("EDITOR", shlex.quote(str(script(code))))


HOSTILE = "; touch sprung $(touch sprung) `touch sprung` > sprung & ~ * # $HOME"


@pytest.mark.parametrize(
    ("name", "typed", "arguments"),
    [
        ("ed", "", []),
        ("my ed", "--wait", ["--wait"]),
        ("-e", " \t-c 'set tw=72'  \"it's\" '' a\\ b ", ["-c", "set tw=72", "it's", "", "a b"]),
        # No shell reads it.
        ("$(touch sprung)", HOSTILE, HOSTILE.split(" ")),
        ("'\"\n\x1b[2J", HOSTILE, HOSTILE.split(" ")),
    ],
    ids=range(5),
)
def test_a_command_is_split_as_a_shell_splits_it(  # noqa: PLR0917
    command, value, script, monkeypatch, tmp_path, temporary, name, typed, arguments
):
    path = script(f"(here / 'arguments').write_text(json.dumps(arguments))\n{WRITE}", name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITOR", f"{shlex.quote(str(path))} {typed}")
    ended = command(*EDIT)
    assert (ended.code, ended.err) == (0, "")
    assert value() == NEW
    assert json.loads((tmp_path / "arguments").read_text()) == arguments
    assert not (tmp_path / "sprung").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("visual", "is_used"), [("{}", True), ("", False), (" \t\n", False), (None, False)])
def test_visual_comes_first_unless_it_says_nothing(command, value, script, monkeypatch, visual, is_used):  # noqa: PLR0917
    monkeypatch.setenv("EDITOR", shlex.quote(str(script("path.write_text('1')", "one"))))
    if visual is not None:
        monkeypatch.setenv("VISUAL", visual.format(script("path.write_text('2')", "two")))
    assert command(*EDIT).code == 0
    assert value() == (2 if is_used else 1)


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("  ", 2, "no editor: set VISUAL or EDITOR"),
        ("'vi", 2, 'EDITOR is "\'vi": No closing quotation'),
        ("no-such-editor", 2, "the editor 'no-such-editor' cannot be run: No such file or directory.\n"),
        ("/no such/editor -w", 2, "'/no' cannot be run: No such file or directory. A path with spaces needs quotes"),
        ("{plain}", 2, "cannot be run: Permission denied."),
        ("{failing}", 1, "the editor ended with 3. Nothing was written."),
        ("{killed}", 1, f"the editor was ended by signal {signal.SIGKILL}. Nothing was written."),
        ("\x1b[2J", 2, "the editor '\\x1b[2J' cannot be run"),
    ],
    ids=range(8),
)
def test_an_editor_that_fails(command, make_saver, value, script, monkeypatch, temporary, typed, code, says):  # noqa: PLR0917
    plain = script("", "plain")
    plain.chmod(0o644)
    failing, killed = script("sys.exit(3)", "failing"), script("os.kill(os.getpid(), signal.SIGKILL)", "killed")
    monkeypatch.setenv("EDITOR", typed.format(plain=plain, failing=failing, killed=killed))
    ended = command(*EDIT)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "kept" not in ended.err
    assert all(line.isprintable() for line in ended.err.split("\n"))
    assert value() == OLD
    assert numbers(make_saver()) == [1]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "name", "holds"),
    [
        (f"{WRITE}; sys.exit(3)", "value.json", json.dumps(NEW)),
        (f"{WRITE}; os.kill(os.getpid(), signal.SIGKILL)", "value.json", json.dumps(NEW)),
        ("path.write_text('{')", "value.json", "{"),
        ("path.write_text('[' * 100_000)", "value.json", "[" * 100_000),
        ("path.write_text('9' * 100_000)", "value.json", "9" * 100_000),
        (r"path.write_bytes(b'\xff')", "value.json", "\ufffd"),
        ("path.write_text('{\"$type\": 1}')", "value.json", '{"$type": 1}'),
        # What an editor that was killed had not stored yet, beside an unchanged file or none.
        ("path.with_name('.value.json.swp').write_text('half'); sys.exit(3)", "", "half"),
        ("path.rename(path.with_name('half')); sys.exit(3)", "", OLD),
        ("path.unlink(); path.mkdir(); (path / 'x').write_text('half')", "value.json", "half"),
        ("path.unlink(); path.symlink_to(path)", "value.json", None),
    ],
    ids=range(11),
)
def test_what_was_typed_is_never_lost(command, value, editor, temporary, code, name, holds):  # noqa: PLR0917
    editor(code)
    ended = command(*EDIT)
    assert ended.code in {1, 2, 3}
    assert value() == OLD
    (directory,) = temporary.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert f"langgraph-gcs: what you edited is kept in {directory / name}\n" in ended.err
    if holds is not None:
        files = [path for path in directory.rglob("*") if path.is_file()]
        assert any(holds in path.read_text(encoding="utf-8", errors="replace") for path in files)


def test_an_editor_that_takes_the_file_away(command, value, editor, temporary):
    editor("path.unlink()")
    ended = command(*EDIT)
    assert (ended.code, ended.out) == (1, "")
    assert "the edited file cannot be read" in ended.err
    assert value() == OLD
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("is_changed", [True, False])
def test_nobody_else_can_read_it_and_nothing_is_left(command, value, editor, temporary, is_changed):
    """Whatever the umask, and however the editor writes: in place, by renaming, with backups and swap files."""
    before = os.umask(0)
    try:
        editor(
            "modes = [path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777]\n"
            "(here / 'modes').write_text(json.dumps(modes))\nos.umask(0)\n"
            "for beside in ('value.json~', '.value.json.swp', '#value.json#'):\n"
            "    path.with_name(beside).write_bytes(path.read_bytes())\n"
            "new = path.with_name('new')\nnew.write_bytes(path.read_bytes())\n"
            f"new.replace(path)\n{WRITE if is_changed else ''}"
        )
        ended = command(*EDIT)
    finally:
        os.umask(before)
    assert (ended.code, ended.err) == (0, "")
    assert value() == (NEW if is_changed else OLD)
    assert json.loads((temporary.parent / "modes").read_text()) == [0o700, 0o600]
    assert list(temporary.iterdir()) == []


def test_what_cannot_be_removed_is_told(command, value, editor, temporary, monkeypatch):
    """Root removes anything, so the system call is what fails."""
    editor(WRITE)

    def fail(path):
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr("shutil.rmtree", fail)
    ended = command(*EDIT)
    (directory,) = temporary.iterdir()
    assert (ended.code, value()) == (0, NEW)
    assert ended.err == (
        f"langgraph-gcs: {directory} holds the value in clear; delete it yourself: Operation not permitted\n"
    )


@pytest.mark.parametrize(
    "name", ["a b", "\x1b]0;x\x07\nlanggraph-gcs: deleted", "$(touch sprung)", "-rf"], ids=range(4)
)
def test_the_name_of_the_temporary_directory(command, value, editor, tmp_path, monkeypatch, name):  # noqa: PLR0917
    other = tmp_path / name
    other.mkdir()
    monkeypatch.setenv("TMPDIR", str(other))
    editor(WRITE)
    assert command(*EDIT).code == 0
    assert value() == NEW
    editor("path.write_text('{')")
    ended = command(*EDIT)
    (kept,) = other.rglob("value.json")
    assert kept.read_text() == "{"
    assert [line for line in ended.err.split("\n") if not line.isprintable()] == []
    assert ended.err.count("\n") == 2


def test_an_editor_that_removes_the_directory(command, value, editor, temporary):
    editor("path.unlink()\npath.parent.rmdir()")
    ended = command(*EDIT)
    assert ended.code == 1
    assert "the edited file cannot be read" in ended.err
    assert ended.err.count("\n") == 1
    assert value() == OLD
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("to", ["directory", "nothing", "file"])
def test_an_editor_that_replaces_the_directory_by_a_link(command, value, editor, temporary, tmp_path, to):  # noqa: PLR0917
    """Nothing behind the link is read as the value, or deleted, and no message points there."""
    other = tmp_path / "other"
    if to == "directory":
        other.mkdir()
        (other / "value.json").write_text(json.dumps(NEW))
    elif to == "file":
        other.write_text(json.dumps(NEW))
    editor("path.parent.rename(here / 'moved')\npath.parent.symlink_to(here / 'other')")
    ended = command(*EDIT)
    assert (ended.code, ended.out) == (1, "")
    assert "the edited file cannot be read" in ended.err
    assert "was replaced" in ended.err
    (link,) = temporary.iterdir()
    assert f"replaced {link} with something else, which is left as it is" in ended.err
    assert "kept" not in ended.err
    assert value() == OLD
    assert link.is_symlink()
    assert to == "nothing" or json.dumps(NEW) in (other / "value.json" if to == "directory" else other).read_text()


def test_an_editor_that_leaves_a_pipe_or_a_link(command, value, editor, temporary, tmp_path):
    """A pipe would wait for its other end, and a link leads to another file."""
    (tmp_path / "other").write_text(json.dumps(NEW))
    for code in ("os.mkfifo(path)", "path.symlink_to(here / 'other')"):
        editor(f"path.unlink()\n{code}")
        ended = command(*EDIT)
        assert ended.code == 1
        assert "the edited file cannot be read: [Errno 22] it is not a file" in ended.err
        assert value() == OLD


@pytest.fixture
def as_a_user(store_uri, tmp_path):
    """Runs `edit` as a process of its own, as signals are of the process; what it ended with, and wrote."""

    def call():
        environment = {**os.environ, "LANGGRAPH_GCS_STORE": store_uri, "PYTHONWARNINGS": "ignore::FutureWarning"}
        environment |= {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none")}
        command = [*LANGGRAPH_GCS, *EDIT]
        ended = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            # As a terminal starts it: below nohup the tests themselves ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        return ended.returncode, ended.stderr

    return call


def test_an_interrupt_is_the_editors(as_a_user, value, editor, temporary):
    """In a terminal Ctrl-C goes to both. An editor has its own use for it."""
    editor(
        f"assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        f"os.kill(os.getppid(), signal.SIGINT)\n{WRITE}"
    )
    assert as_a_user() == (0, "")
    assert value() == NEW
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_the_command(as_a_user, value, editor, temporary, name):
    # It ends by itself only if the command ended without it, which fails the test.
    editor(
        f"{WRITE}\nparent = os.getppid()\nos.kill(parent, signal.{name})\n"
        "while os.getppid() == parent:\n    time.sleep(0.01)"
    )
    code, told = as_a_user()
    assert code == 128 + getattr(signal, name)
    (directory,) = temporary.iterdir()
    assert told == f"langgraph-gcs: what you edited is kept in {directory / 'value.json'}\n"
    assert (directory / "value.json").read_text(encoding="utf-8") == json.dumps(NEW)
    assert value() == OLD


def test_a_command_on_windows(command, monkeypatch):
    """It has no SIGHUP."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(signal, "SIGHUP")
    assert command("--version").code == 0
