"""`--cipher`: every command on a store that is encrypted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.views import terminal
from tests.behaviour.api import cfg, cid
from tests.cli.filled import fill, numbers
from tests.cli.test_demo import LANGGRAPH_GCS, environment  # noqa: F401 - a fixture
from tests.compat.xor_cipher import XorCipher
from tests.patience import PATIENCE
from tests.system.raw import open_raw

XOR = "tests.compat.xor_cipher:XorCipher"
VARIABLE = "LANGGRAPH_GCS_CIPHER"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture(autouse=True)
def _no_cipher_of_before(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    terminal._cipher.cache_clear()


@pytest.fixture
def encrypted(make_saver):
    """A saver of the store, which has an encrypted thread."""
    with make_saver(cipher=XorCipher()) as saver:
        fill(saver)
        yield saver


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module to the working directory; its name."""
    monkeypatch.chdir(tmp_path)
    name = f"made_{tmp_path.name.replace('-', '_')}"
    monkeypatch.delitem(sys.modules, name, raising=False)

    def write(text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


COMMANDS = [
    ["threads"],
    ["history", "t"],
    ["show", "t"],
    ["diff", "t", cid(1), "latest"],
    ["edit", "t", "--channel", "small", "--set", "7", "--dry-run"],
    ["stats"],
    ["report", "t", "-o", "-"],
    ["verify", "--depth", "data"],
    ["repair"],
    ["prune", "t", "--keep-last", "1", "--yes"],
    ["copy", "t", "u"],
    ["collect", "t", "--orphan-age", "0s", "--yes"],
    ["drill", "t"],
]
"""All of them need the key."""

NEEDING_NONE = [
    ["pin", "t", cid(1), "label"],
    ["unpin", "t", cid(1)],
    ["sweep", "--ttl", "90d", "--yes"],
    ["setup"],
    ["export", "t", "t.tar"],
    ["delete", "t", "--yes"],
]


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_a_command_that_needs_the_key(command, store_uri, arguments):
    before = open_raw(store_uri).snapshot()
    ended = command(*arguments)
    assert (ended.code, ended.out) == (8, "")
    assert "encrypted with 'test-xor', and the saver has no `cipher`" in ended.err
    assert ended.err.endswith(" Name the cipher with --cipher MODULE:NAME or LANGGRAPH_GCS_CIPHER.\n")
    assert open_raw(store_uri).snapshot() == before
    ended = command(*arguments, "--cipher", XOR)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("arguments", NEEDING_NONE, ids=lambda words: words[0])
def test_a_command_that_needs_none_takes_it_too(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command(*arguments, "--cipher", XOR)
    assert (ended.code, ended.err) == (0, "")


def test_an_edit_is_encrypted(command, encrypted, store_uri):
    assert command("edit", "t", "--channel", "small", "--set", "7", "--cipher", XOR).code == 0
    assert encrypted.get_tuple(cfg()).checkpoint["channel_values"]["small"] == 7
    for name, document in open_raw(store_uri).documents().items():
        for field in {"manifest", "frames"} & document.keys():
            assert b"test-xor" in document[field] or not document[field], name


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize(
    ("before", "after", "variable", "code"),
    [
        (None, XOR, None, 0),
        (XOR, None, None, 0),
        (None, None, XOR, 0),
        ("no_such:cipher", XOR, "no_such:cipher", 0),
        (XOR, None, "no_such:cipher", 0),
        (None, None, "", 8),
        (XOR, "", XOR, 8),
        (XOR, "no_such:cipher", XOR, 2),
    ],
)
def test_what_is_typed_last_wins(command, monkeypatch, before, after, variable, code):  # noqa: PLR0917
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    words = [] if before is None else ["--cipher", before]
    words += ["show", "t"]
    words += [] if after is None else ["--cipher", after]
    assert command(*words).code == code


FORMS = """
import os
from tests.compat.xor_cipher import XorCipher
from tests.incremental.eax import Eax

cipher = XorCipher()
other = Eax("another key")
made = []
number = 7

class holder:
    ready = XorCipher()

def makes():
    made.append(1)
    assert len(made) == 1, "a key is asked for once"
    return XorCipher()

def makes_none():
    return None

def of_key(key):
    return XorCipher()

def raises():
    int("s3cret")

class Half:
    def decrypt(self, name, data):
        return data
"""
LINE = FORMS.splitlines().index('    int("s3cret")') + 1


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("name", ["cipher", "XorCipher", "holder.ready", "makes"])
def test_forms_of_a_cipher(command, module, name):
    ended = command("drill", "t", "--cipher", f"{module(FORMS)}:{name}")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize(
    ("named", "code", "message"),
    [
        ("nonsense", 2, "--cipher nonsense: give MODULE:NAME."),
        (":cipher", 2, "give MODULE:NAME."),
        ("no_such_module:cipher", 2, "No module named 'no_such_module'"),
        ("MADE:no_such_name", 2, "has no attribute 'no_such_name'"),
        ("MADE:number", 2, "a int is not a cipher. A cipher has the methods encrypt and decrypt"),
        ("MADE:makes_none", 2, "a NoneType is not a cipher"),
        ("MADE:Half", 2, "a Half is not a cipher"),
        ("MADE:of_key", 2, "calling it without arguments raises TypeError."),
        ("MADE:raises", 2, f"calling it without arguments raises ValueError in line {LINE} of "),
        ("MADE:other", 8, "the saver's `cipher` cannot decrypt it"),
    ],
)
def test_what_is_no_cipher_of_the_store(command, module, monkeypatch, named, code, message):  # noqa: PLR0917
    named = named.replace("MADE", module(FORMS))
    ended = command("show", "t", "--cipher", named)
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert "s3cret" not in ended.err
    monkeypatch.setenv(VARIABLE, named)
    ended = command("show", "t")
    assert (ended.code, ended.out) == (code, "")
    assert code != 2 or ended.err.startswith(f"langgraph-gcs: {VARIABLE} {named}: ")


@pytest.mark.usefixtures("encrypted")
@pytest.mark.parametrize("option", [["show", "t", "--cipher"], ["migrate", "--from"]])
def test_a_module_that_raises(command, module, option):
    ended = command(*option, f"{module('import os')}{'x'}:cipher")
    assert (ended.code, "No module named" in ended.err) == (2, True)
    name = module('cipher = 1\nkey = {"s3cret": 1}["s3crets"]')
    ended = command(*option, f"{name}:cipher")
    assert (ended.code, ended.out) == (2, "")
    assert f"{name}:cipher: the module raises KeyError in line 2 of " in ended.err
    assert "s3cret" not in ended.err


@pytest.mark.usefixtures("encrypted")
def test_to_another_store(command, store_uri, tmp_path):
    other = (tmp_path / "other").as_uri()
    told = json.loads(command("pull", "t", store_uri, other, "--json").out)
    assert "no `cipher`" in told["undecoded"]
    for words in (["pull", "t", store_uri], ["push", "t", store_uri]):
        ended = command(*words, f"{other}-{words[0]}", "--cipher", XOR)
        assert (ended.code, ended.err) == (0, "")
        assert "Every value was decoded: no damage." in ended.out
    assert command("export", "t", str(tmp_path / "t.tar")).code == 0
    ended = command("import", str(tmp_path / "t.tar"), "--store", f"{other}-import", "--cipher", XOR)
    assert "Every value was decoded: no damage." in ended.out
    another = ["import", str(tmp_path / "t.tar"), "--as", "u", "--store", f"{other}-as"]
    assert command(*another).code == 8
    ended = command(*another, "--cipher", XOR)
    assert (ended.code, ended.err) == (0, "")
    with GCSSaver.from_conn_string(f"{other}-as", cipher=XorCipher()) as saver:
        assert numbers(saver, "u") == [4, 3, 2, 1]


def test_what_is_migrated_is_encrypted(command, encrypted, tmp_path):
    from langgraph.checkpoint.sqlite import SqliteSaver

    encrypted.delete_thread("t")
    with SqliteSaver.from_conn_string(str(tmp_path / "file")) as source:
        fill(source, "u", 2)
    ended = command("migrate", "--from", f"sqlite://{tmp_path}/file", "--cipher", XOR)
    assert (ended.code, ended.err) == (0, "")
    assert numbers(encrypted, "u") == [2, 1]
    assert command("show", "u").code == 8


def test_the_demo(command, encrypted, store_uri, monkeypatch):
    encrypted.delete_thread("t")
    monkeypatch.setenv(VARIABLE, "no_such:cipher")
    ended = command("demo", "--documents", "10", "--store", store_uri, "--json", "--cipher", XOR)
    assert ended.code == 0
    thread = json.loads(ended.out)["thread_id"]
    assert command("show", thread, "--cipher", "").code == 8
    assert command("show", thread, "--cipher", XOR).code == 0


@pytest.mark.usefixtures("encrypted")
def test_as_a_process(store_uri, environment):  # noqa: F811
    ended = subprocess.run(
        [*LANGGRAPH_GCS, "--store", store_uri, "history", "t", "--json"],
        env=environment() | {VARIABLE: XOR},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    )
    assert len(json.loads(ended.stdout)) == 4
