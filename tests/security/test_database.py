"""A database of the embedded store that an attacker has written to: nothing of theirs runs, and errors are typed."""

import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from functools import partial

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError, SourceError, StoreError
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.docs.fences import ROOT
from tests.patience import PATIENCE
from tests.system.build import cfg, put, values

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


@pytest.fixture
def change(make_saver, store_uri, tmp_path):
    """Fills a store, closes it, and runs statements in its database."""
    with make_saver() as saver:
        for thread in ("a", "m", "z"):
            put(saver, 1, {"v": thread}, thread=thread)

    def run(*statements):
        with closing(sqlite3.connect(tmp_path / "store" / "documents.sqlite3")) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    return run


SCHEMAS = {
    "an endless view": (
        "ALTER TABLE documents RENAME TO kept",
        f"CREATE VIEW documents AS SELECT k.* FROM kept k, ({ENDLESS})",
    ),
    "a trigger that loses what is put": (
        "CREATE TRIGGER lost BEFORE INSERT ON documents BEGIN SELECT RAISE(IGNORE); END",
    ),
    "a trigger that deletes": ("CREATE TRIGGER gone AFTER UPDATE ON clock BEGIN DELETE FROM documents; END",),
    "a trigger that is called like SQLite's own tables": (
        "CREATE TRIGGER t AFTER UPDATE ON clock BEGIN DELETE FROM documents; END",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET name = 'sqlite_t', sql = replace(sql, ' t ', ' sqlite_t ') WHERE name = 't'",
    ),
    "an index that is called like SQLite's own": (
        "CREATE INDEX i ON documents (length(zeroblob(length(fields))))",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET name = 'sqlite_i', sql = replace(sql, ' i ', ' sqlite_i ') WHERE name = 'i'",
    ),
    "a generated column": (
        "ALTER TABLE documents ADD COLUMN more BLOB GENERATED ALWAYS AS (zeroblob(900000000)) VIRTUAL",
    ),
    "an index on an expression": ("CREATE INDEX slow ON documents (length(zeroblob(length(fields))))",),
    "a table": ("CREATE TABLE another (x)",),
    "a virtual table": ("CREATE VIRTUAL TABLE another USING fts5(x)",),
}


@pytest.mark.parametrize("what", SCHEMAS)
def test_another_schema_is_refused(change, store_uri, command, what):  # noqa: F811
    change(*SCHEMAS[what])
    with GCSSaver.from_conn_string(store_uri, verify="off") as saver:
        for call in (
            lambda: saver.get_tuple(cfg(thread="a")),
            lambda: list(saver.list(None)),
            saver.admin.threads,
            lambda: put(saver, 2, {"v": 2}, parent=1, thread="a"),
            lambda: saver.delete_thread("a"),
        ):
            with pytest.raises(StoreError, match=r"documents.sqlite3 has .* in its schema.*Restore"):
                call()
    ended = command("threads")
    assert (ended.code, ended.out) == (StoreError.exit_code, "")
    assert "in its schema" in ended.err


@pytest.mark.parametrize("statement", ["CREATE TABLE notes (text)", "CREATE VIEW documents AS SELECT 1"])
def test_the_database_of_another_program_is_left_as_it_is(store_uri, tmp_path, command, statement):  # noqa: F811
    path = tmp_path / "store" / "documents.sqlite3"
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
    before = path.read_bytes()
    with GCSSaver.from_conn_string(store_uri) as saver:
        for call in (saver.admin.threads, lambda: put(saver, 1, {"v": 1})):
            with pytest.raises(StoreError, match="in its schema"):
                call()
    assert command("stats").code == StoreError.exit_code
    assert path.read_bytes() == before


def forged_journal(database, victim):
    """A rollback journal without pages that names a super-journal, which SQLite deletes after it has rolled back."""
    size = int.from_bytes(database.read_bytes()[16:18], "big")
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(victim).encode()
    head = magic + struct.pack(">IIIII", 0, 0, database.stat().st_size // size, 512, size)
    tail = struct.pack(">I", 0x40000000 // size + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    return head.ljust(512, b"\0") + tail


@pytest.mark.parametrize("calls", [["threads"], ["verify"], ["delete", "a", "--yes"], ["setup"]])
def test_a_journal_that_names_a_file_to_delete(change, store_uri, tmp_path, command, calls):  # noqa: F811
    change()
    database, victim = tmp_path / "store" / "documents.sqlite3", tmp_path / "thesis.tex"
    victim.write_text("the only copy")
    (tmp_path / "store" / "documents.sqlite3-journal").write_bytes(forged_journal(database, victim))
    ended = command(*calls, "--store", store_uri)
    assert ended.code
    assert "is a rollback journal" in ended.err
    assert victim.read_text() == "the only copy"
    # SQLite does what is said above: the journal is not merely one that it does not take for one.
    with closing(sqlite3.connect(database)) as db:
        db.execute("SELECT * FROM clock").fetchall()
    assert not victim.exists()


SAVERS = (
    "CREATE TABLE checkpoints (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)",
    "CREATE TABLE writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value)",
)


def migrated(command, store_uri, source, *statements):  # noqa: F811
    with closing(sqlite3.connect(source)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    before = source.read_bytes()
    ended = command("migrate", "--from", f"sqlite://{source}", "--dry-run", "--store", store_uri)
    assert source.read_bytes() == before
    return ended


@pytest.mark.parametrize("linked", [False, True])
def test_a_journal_beside_the_source_of_a_migration(store_uri, tmp_path, command, linked):  # noqa: F811
    source, victim = tmp_path / "source.sqlite", tmp_path / "thesis.tex"
    migrated(command, store_uri, source, *SAVERS)
    victim.write_text("the only copy")
    (tmp_path / "source.sqlite-journal").write_bytes(forged_journal(source, victim))
    named = source
    if linked:
        named = tmp_path / "link.sqlite"
        named.symlink_to(source)
    ended = command("migrate", "--from", f"sqlite://{named}", "--dry-run", "--store", store_uri)
    assert (ended.code, victim.exists()) == (SourceError.exit_code, True)
    assert "rollback journal beside it" in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize("companion", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["hard link", "link", "pipe"])
def test_what_lies_beside_the_source_of_a_migration(store_uri, tmp_path, command, companion, kind):  # noqa: F811
    """SQLite writes to it, or waits for its other end, although it opens the database for reading only."""
    if not companion and kind == "pipe":
        pytest.skip("it is no file, and the command says so")
    source, victim = tmp_path / "source.sqlite", tmp_path / "thesis.tex"
    made = (SAVERS[0].replace("type", "parent_checkpoint_id, type"), SAVERS[1], "PRAGMA journal_mode = WAL")
    migrated(command, store_uri, source, *made)
    victim.write_text("the only copy")
    place = tmp_path / f"source.sqlite{companion}"
    if not companion:
        source.rename(victim)
    place.unlink(missing_ok=True)
    {"hard link": partial(os.link, victim), "link": partial(os.symlink, victim), "pipe": os.mkfifo}[kind](place)
    before = victim.read_bytes()
    ended = command("migrate", "--from", f"sqlite://{source}", "--dry-run", "--store", store_uri)
    assert victim.read_bytes() == before
    if not companion and kind == "link":
        assert "there is no thread in the source" in ended.err
    else:
        assert ended.code == SourceError.exit_code
        assert "is a link, a hard link, a directory or a device" in ended.err


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (("CREATE TABLE notes (text)",), "in its schema"),
        ((SAVERS[1], f"CREATE VIEW checkpoints AS {ENDLESS}"), "in its schema"),
        ((SAVERS[0], SAVERS[1], "CREATE TRIGGER t AFTER INSERT ON writes BEGIN SELECT 1; END"), "in its schema"),
        ((SAVERS[0], SAVERS[1].replace("value)", "value AS (zeroblob(900000000)))")), "in its schema"),
        ((*SAVERS, "ANALYZE"), "in its schema"),
        ((SAVERS[0],), "has no checkpoints"),
        ((), "has no checkpoints"),
    ],
)
def test_a_source_of_a_migration_that_is_something_else(store_uri, tmp_path, command, statements, complaint):  # noqa: F811
    source = tmp_path / "source.sqlite"
    source.touch()
    ended = migrated(command, store_uri, source, *statements)
    assert ended.code == SourceError.exit_code
    assert complaint in ended.err


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before it nothing bounds what one expression takes")
def test_statistics_that_are_computed(change, store_uri):
    """SQLite reads the table of its statistics before anything can be looked at."""
    change("ANALYZE", "INSERT INTO sqlite_stat1 VALUES ('documents', NULL, '1')", "PRAGMA writable_schema = ON")
    change(
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl,idx,stat AS (hex(zeroblob(400000000))))' "
        "WHERE name = 'sqlite_stat1'",
        "PRAGMA schema_version = 1000",
    )
    limit = ["sh", "-c", 'ulimit -d 600000 && exec "$@"', "sh"]  # kilobytes: two blobs of 400 MB do not fit
    program = [sys.executable, "-m", "langgraph_gcs_saver.cli", "threads", "--store", store_uri]
    ended = subprocess.run([*limit, *program], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout) == (StoreError.exit_code, "")
    assert "in its schema" in ended.stderr


@pytest.mark.parametrize("rows", ["", "DELETE FROM sqlite_stat1"])
def test_statistics_are_refused(change, make_saver, rows):
    """They decide whether SQLite sorts all documents for a query of one, in files of its own."""
    change("ANALYZE", *([rows] if rows else []))
    with pytest.raises(StoreError, match="run `DROP TABLE sqlite_stat1`"):
        make_saver().get_tuple(cfg(thread="a"))
    change("DROP TABLE sqlite_stat1", "VACUUM")
    assert values(make_saver().get_tuple(cfg(thread="a"))) == {"v": "a"}


def test_a_log_without_its_database(store_uri, tmp_path, command):  # noqa: F811
    """SQLite would write it into whatever database it finds there."""
    path = tmp_path / "store"
    killed = f"""
import os
from langgraph_gcs_saver import GCSSaver
from tests.system.build import put
saver = GCSSaver.from_conn_string({store_uri!r})
put(saver, 1, {{"v": "deleted"}}, thread="deleted")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", killed], cwd=ROOT, check=False, timeout=PATIENCE)
    assert (path / "documents.sqlite3-wal").stat().st_size
    (path / "documents.sqlite3").unlink()
    ended = command("setup", "--store", store_uri)
    assert ended.code == StoreError.exit_code
    assert "is missing, but" in ended.err
    assert "First move the log away" in ended.err
    for beside in ("-wal", "-shm"):
        (path / f"documents.sqlite3{beside}").unlink(missing_ok=True)
    assert command("setup", "--store", store_uri).code == 0


PEAK = (
    "import sys\n"
    "from langgraph_gcs_saver import GCSSaver\n"
    "with GCSSaver.from_conn_string(sys.argv[1]) as saver:\n"
    "    found = {one.config['configurable']['thread_id'] for one in saver.list(None)}\n"
    "    found |= {one.thread_id for one in saver.admin.verify()}\n"
    "with open('/proc/self/status') as status:\n"
    "    peak = next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))\n"
    "print(*sorted(found), peak < 200 << 10)\n"
)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("BLOB", "create_time"),
        ("TEXT", "update_time"),
        pytest.param("BLOB", "update_time", marks=pytest.mark.soak),
        pytest.param("TEXT", "create_time", marks=pytest.mark.soak),
    ],
)
def test_a_time_that_is_long(change, store_uri, field, kind):
    """It is damage of its thread, and is not read."""
    change(
        f"UPDATE documents SET {field} = CAST(zeroblob({256 << 20}) AS {kind}) "
        "WHERE instr(name, CAST('lg_checkpoints' AS BLOB)) AND instr(name, x'6d00')"
    )
    ended = subprocess.run([sys.executable, "-c", PEAK, store_uri], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == ["a", "m", "z", "True"]


def test_a_name_that_is_longer_than_names_are(change, make_saver):
    change("UPDATE documents SET name = CAST(name || zeroblob(100000) AS BLOB) WHERE instr(name, x'6d00')")
    saver = make_saver()
    with pytest.raises(DamageError, match="The index of"):
        list(saver.list(None))
    assert values(saver.get_tuple(cfg(thread="a"))) == {"v": "a"}


def test_an_index_without_an_end(make_saver, tmp_path, store_uri, command):  # noqa: F811
    """Pages that have the same children again and again: 2^20 times the rows of a page, of a file of some KB."""
    with make_saver() as saver:
        for n in range(1, 17):
            put(saver, n, {"v": n}, parent=n - 1 or None)
    file = tmp_path / "store" / "documents.sqlite3"
    with closing(sqlite3.connect(file)) as db:
        for statement in ("journal_mode = DELETE", "page_size = 512", "journal_mode = DELETE"):
            db.execute(f"PRAGMA {statement}")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode = WAL")
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_documents_1'"
        ).fetchone()
    pages = [bytearray(file.read_bytes()[at : at + 512]) for at in range(0, file.stat().st_size, 512)]
    top, count, levels = bytes(pages[root - 1]), len(pages), 12
    assert top[0] == 2, "an inner page of an index"
    cells = [int.from_bytes(top[12 + 2 * n : 14 + 2 * n], "big") for n in range(int.from_bytes(top[3:5], "big"))]
    leaf = pages[int.from_bytes(top[cells[-1] : cells[-1] + 4], "big") - 1]
    assert leaf[0] == 10, "a leaf of an index"

    def leading_to(child):
        page = bytearray(top)
        for at in (8, *cells):
            page[at : at + 4] = child.to_bytes(4, "big")
        return page

    pages[root - 1] = leading_to(count + 1)
    pages += [leading_to(count + level + 1) for level in range(1, levels)] + [leaf]
    pages[0][28:32] = len(pages).to_bytes(4, "big")
    file.write_bytes(b"".join(pages))
    for line in ("threads", "history t", "verify t", "stats", "delete t --yes"):
        ended = command(*line.split())
        assert ended.code, line
        assert "The index of the embedded store" in ended.err or "malformed" in ended.err, line


def test_many_names_of_one_row(make_saver, store_uri, tmp_path):
    """Two entries of the index lead to one large row: a small file would give any number of these."""
    with make_saver() as saver:
        for n in (1, 2):
            put(saver, n, {"v": n}, parent=n - 1 or None)
    file = tmp_path / "store" / "documents.sqlite3"
    with closing(sqlite3.connect(file)) as db:
        rows = db.execute("SELECT id, name FROM documents WHERE collection_id = 'lg_checkpoints' ORDER BY id")
        (one, _), (two, name) = rows.fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = file.read_bytes()
    entry = name + two.to_bytes(1, "big")
    assert data.count(entry) == 1
    file.write_bytes(data.replace(entry, name + one.to_bytes(1, "big")))
    with pytest.raises(DamageError, match="The index of"):
        make_saver().admin.history("t")


ROWS = {
    "a time that is text": "update_time = 'soon'",
    "a time that is none": "create_time = x'00'",
    "a time beyond all": "update_time = 1e300",
    "text for a document": "fields = 'a text'",
    "a number for a document": "fields = 7",
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_of_other_types_are_damage_of_their_thread(change, make_saver, command, what):  # noqa: F811
    change(f"UPDATE documents SET {ROWS[what]} WHERE instr(name, CAST('t3-m' AS BLOB)) OR instr(name, x'6d00')")
    saver = make_saver()
    assert values(saver.get_tuple(cfg(thread="a"))) == {"v": "a"}
    with pytest.raises((CheckpointCorruptError, DamageError)):
        saver.get_tuple(cfg(thread="m"))
    assert {one.config["configurable"]["thread_id"] for one in saver.list(None)} == {"a", "z"}
    assert {one.thread_id for one in saver.admin.threads()} >= {"a", "z"}
    for line in ("threads", "stats", "verify", "repair --dry-run", "history m"):
        assert command(*line.split()).code in {0, 4, 8}, line


def test_a_name_that_is_no_text(change, make_saver):
    change(
        "UPDATE documents SET name = name || x'ff' "
        "WHERE instr(name, CAST('lg_checkpoints' AS BLOB)) AND instr(name, x'6d00')"
    )
    saver = make_saver()
    found = {one.config["configurable"]["thread_id"] for one in saver.list(None)}
    assert found == {"a", "z"}


class Bounded(Interceptor):
    """Fails a call that would not end by itself."""

    left = 5000

    def around(self, effect, perform):
        self.left -= 1
        assert self.left, "this call does not end"
        return perform(effect)


NAMES = {
    "a byte that is no text": "name || x'ff'",
    "a slash": "name || CAST('/a/b' AS BLOB)",
    "a segment too many": "name || x'0061'",
    "an empty segment": "name || x'00'",
}
CALLS = {
    "verify all": lambda saver: list(saver.admin.verify()),
    "repair all": lambda saver: list(saver.admin.plan_repair()),
    "collect all": lambda saver: list(saver.admin.plan_collect(orphan_age=timedelta())),
    "sweep": lambda saver: saver.admin.plan_sweep(),
    "list": lambda saver: list(saver.list(cfg(thread="m"))),
    "prune": lambda saver: saver.admin.prune(["m"]),
    "copy": lambda saver: saver.copy_thread("m", "copy"),
    "delete": lambda saver: saver.delete_thread("m"),
}


@pytest.mark.parametrize("collection", ["lg_threads", "lg_checkpoints", "lg_writes"])
@pytest.mark.parametrize("what", NAMES)
def test_a_row_whose_name_no_document_has(change, make_saver, what, collection):
    """Such rows are beside sound ones. Each is in the place where a page of documents ends."""
    with make_saver() as saver:
        saver.put_writes(cfg(1, thread="m"), [("v", "w")], "task")
    columns = "fields, create_time, update_time"
    change(
        f"INSERT INTO documents (collection_id, name, {columns}) "
        f"SELECT collection_id, CAST({NAMES[what]} AS BLOB), {columns} "
        f"FROM documents WHERE collection_id = '{collection}' AND instr(name, CAST('-m' AS BLOB))"
    )
    for name, call in CALLS.items():
        with make_saver(interceptors=[Bounded()], ttl=timedelta(days=1)) as saver:
            assert name == "delete" or values(saver.get_tuple(cfg(thread="m"))) == {"v": "m"}
            call(saver)
    with make_saver() as saver:
        assert saver.get_tuple(cfg(thread="m")) is None
        assert {one.thread_id for one in saver.admin.threads()} == {"a", "copy", "z"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE clock SET last = 'late'",
        "DELETE FROM clock",
        f"UPDATE clock SET last = {2**63 - 1}",
        "UPDATE clock SET last = 1e300",
    ],
)
def test_a_clock_that_is_none(change, make_saver, statement):
    change(statement)
    saver = make_saver()
    with pytest.raises(DamageError, match=r"clock of the embedded store.*Nothing was written"):
        put(saver, 2, {"v": 2}, parent=1, thread="a")
    assert values(saver.get_tuple(cfg(thread="a"))) == {"v": "a"}


@pytest.mark.parametrize("kind", ["BLOB", "TEXT"])
def test_a_document_larger_than_documents_can_be(change, store_uri, kind):
    """It is damage, and is not read: SQLite says how large it is."""
    change(
        f"UPDATE documents SET fields = CAST(zeroblob({256 << 20}) AS {kind}) "
        "WHERE instr(name, CAST('lg_checkpoints' AS BLOB)) AND instr(name, x'6d00')"
    )
    ended = subprocess.run([sys.executable, "-c", PEAK, store_uri], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == ["a", "m", "z", "True"]
