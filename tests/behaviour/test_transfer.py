"""Moving a thread between stores, and to a file and back: the copy is exact, whatever crashes or writes meanwhile."""

import json
import tarfile
from collections import Counter
from io import BytesIO
from itertools import count

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import REQUESTS, Doc, On, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.named_stores import NamedStores
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    CheckpointVerificationError,
    ConflictError,
    DamageError,
    GCSSaverError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET, transfer
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.stores.archive import Archive, NewArchive
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, cid
from tests.kit.interceptors import BeforeRounds, Seen
from tests.kit.performing import rounds_of
from tests.stateful.threads import LONG, LOST, MOSTLY_LOCAL, check, everything, fill, noise, put, stored_as
from tests.system import build
from tests.system.raw import open_raw


@pytest.fixture
def there(tmp_path):
    """The connection string of a second, empty store."""
    return f"file://{tmp_path}/there"


def comparable(uri, thread, prefix=""):
    """A thread's documents and objects, without what differs between stores."""
    raw = open_raw(uri)
    docs, blobs = raw.snapshot()
    raw.close()
    own = keys.spread(thread)
    docs = {name: dict(fields) for name, fields in docs.items() if own in name.split("/")}
    for name, fields in docs.items():
        if name == keys.thread_doc(thread):
            for own_only in ("claim", "held"):
                fields.pop(own_only, None)
        elif name.startswith(keys.RUNS):
            fields.pop("token")
    return docs, {name.removeprefix(prefix): data for name, data in blobs.items() if f"{own}/" in name}


def prefix_of(uri):
    return "agents/" if uri.startswith("gs:") else ""


@pytest.mark.parametrize(
    ("store_uri", "variant", "thread", "mode"),
    [
        ("local", "inline", "t", "sync"),
        ("local", "objects", LONG, "async"),
        ("local", "cipher", "t", "sync"),
        ("local", "stubs", LONG, "sync"),
        pytest.param("emulators", "objects", "t", "async", marks=pytest.mark.soak),
        pytest.param("emulators", "cipher", LONG, "sync", marks=pytest.mark.soak),
    ],
    indirect=["store_uri"],
)
async def test_there_and_back(  # noqa: PLR0917
    store_uri, make_saver, there, tmp_path, monkeypatch, variant, thread, mode
):
    """Over a second store and an archive, byte for byte, and without the key."""
    taken = f"file://{tmp_path}/taken"
    with stored_as(variant, monkeypatch) as options:
        with make_saver(**options) as saver:
            fill(saver, thread)
            fill(saver, "t_b")
            saver.admin.pin(cfg(thread, n=50), "a label")
            saver.prune([thread], strategy=KeepLast(3))
            before = everything(saver, thread)
        source = comparable(store_uri, thread, prefix_of(store_uri))
        done = []
        with make_saver() as first, GCSSaver.from_conn_string(there) as second:
            if mode == "sync":
                moved = first.admin.transfer_thread(thread, second, progress=done.append)
            else:
                moved = await first.admin.atransfer_thread(thread, second, progress=done.append)
        assert sum(done) == 2 * moved.total > 20
        assert (moved.undecoded is not None) is (variant == "cipher")
        assert moved.findings == ()
        assert comparable(there, thread) == source
        path = tmp_path / "thread.tar"
        with GCSSaver.from_conn_string(there) as second, GCSSaver.from_conn_string(taken) as third:
            if mode == "sync":
                second.admin.export_thread(thread, path)
                third.admin.import_thread(path)
            else:
                await second.admin.aexport_thread(thread, path)
                await third.admin.aimport_thread(path)
        assert comparable(taken, thread) == source
        with GCSSaver.from_conn_string(taken) as third, make_saver() as first:
            first.delete_thread(thread)
            third.admin.transfer_thread(thread, first)
        assert comparable(store_uri, thread, prefix_of(store_uri)) == source
        check(make_saver, thread, before, **options)
        with make_saver(**options) as saver:
            assert saver.admin.pins(cfg(thread)) == {cid(50): "a label"}
            # The thread continues there as here, and can be deleted as a whole.
            put(saver, thread, LOST, 80)
            assert list(saver.admin.verify(thread, depth="data")) == []
            saver.delete_thread(thread)
        assert comparable(store_uri, thread, prefix_of(store_uri)) == ({}, {})


async def test_a_small_thread_on_both_stores(make_saver, there, tmp_path):
    async with make_saver() as saver, GCSSaver.from_conn_string(there) as second:
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
        before = everything(saver)
        assert (await saver.admin.atransfer_thread("t", second)).findings == ()
        await saver.admin.aexport_thread("t", tmp_path / "t.tar")
        await saver.adelete_thread("t")
        assert (await saver.admin.aimport_thread(tmp_path / "t.tar")).present == 0
        assert everything(saver) == everything(second) == before


@MOSTLY_LOCAL
def test_first_wins_there_too(make_saver, there):
    with make_saver() as saver:
        put(saver, "t", 1)
        for n in range(12):
            saver.put_writes(cfg(n=1), [("messages", f"first {n}"), (f"other {n}", n)], "task", "~1")
        before = everything(saver)
        with GCSSaver.from_conn_string(there) as second:
            saver.admin.transfer_thread("t", second)
    with GCSSaver.from_conn_string(there) as second:
        assert everything(second) == before


@MOSTLY_LOCAL
def test_what_is_refused(store_uri, make_saver, there, tmp_path):
    with make_saver() as saver, GCSSaver.from_conn_string(there) as second:
        put(saver, "t", 1)
        put(second, "t", 2)
        stored = comparable(there, "t")
        with pytest.raises(InvalidInputError, match="not empty"):
            saver.admin.transfer_thread("t", second)
        saver.admin.export_thread("t", tmp_path / "t.tar")
        with pytest.raises(InvalidInputError, match="not empty"):
            second.admin.import_thread(tmp_path / "t.tar")
        assert comparable(there, "t") == stored
        assert not saver.admin.transfer_thread("none", second)
        assert not saver.admin.export_thread("none", tmp_path / "none.tar")
        assert not (tmp_path / "none.tar").exists()
        second.delete_thread("t")
        assert saver.admin.transfer_thread("t", second, dry_run=True).checkpoints == 1
        assert comparable(there, "t") == ({}, {})
        saver.admin.transfer_thread("t", second)
        # A repeated call finds that everything is done.
        assert saver.admin.transfer_thread("t", second).present == 2
        put(saver, "t", 3, 1)
        with pytest.raises(InvalidInputError, match="not empty"):
            saver.admin.transfer_thread("t", second)
        assert everything(second).keys() == {("", 1)}
    raw = open_raw(store_uri)
    name = keys.thread_doc("t")
    for mark, error in (("deleting", ConflictError), ("copying", InvalidInputError)):
        raw.set_document(name, {"thread_id": "t", mark: "x"})
        with make_saver() as saver, GCSSaver.from_conn_string(f"{there}2") as second, pytest.raises(error):
            saver.admin.transfer_thread("t", second)
    raw.close()


@MOSTLY_LOCAL
def test_damage_is_moved_and_told(store_uri, make_saver, there):
    with make_saver() as saver:
        for n in (10, 20, 30):
            put(saver, "t", n, n - 10 or None)
    raw = open_raw(store_uri)
    name = keys.checkpoint_doc("t", "", cid(20))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"flipped"})
    raw.close()
    with make_saver() as saver, GCSSaver.from_conn_string(there) as second:
        moved = saver.admin.transfer_thread("t", second)
    assert any(finding.is_damage and finding.name == name for finding in moved.findings)
    assert comparable(there, "t")[0] == comparable(store_uri, "t")[0]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_a_transfer_that_died_is_taken_up_again(tmp_path, step):
    source = f"file://{tmp_path}/source"
    with GCSSaver.from_conn_string(source, inline_max_bytes=2000) as saver:
        fill(saver)
        put(saver, "other", 1)
        before = everything(saver)
    for stop in count(0, step):
        uri = f"file://{tmp_path}/{stop}"
        with GCSSaver.from_conn_string(source) as saver:
            with CrashingSaver.from_conn_string(uri) as second:
                second.plan = Plan(stop)
                try:
                    saver.admin.transfer_thread("t", second)
                except Crashed:
                    pass
                else:
                    break
            with GCSSaver.from_conn_string(uri) as second:
                part = everything(second)
                assert part == {key: before[key] for key in part}
                moved = saver.admin.transfer_thread("t", second)
                assert (moved.present > 0) is (stop > 10) or stop <= 10
        assert comparable(uri, "t") == comparable(source, "t")
    assert stop > 14


def _delete(saver):
    saver.delete_thread("t")


def _prune(saver):
    saver.prune(["t"])


def _grow(saver):
    put(saver, "t", 90, 80)
    put(saver, "t", 91, 45)


def _again(saver):
    put(saver, "t", 50, 40, salt="other content")
    saver.put_writes(cfg("t", n=80), [("__interrupt__", noise("new", 150_000))], "task")


@pytest.mark.parametrize("meanwhile", [_delete, _prune, _grow, _again])
def test_a_source_that_changes_meanwhile(tmp_path, meanwhile):
    refused = set()
    for at in count(0, 2):
        source, target, done = f"file://{tmp_path}/{at}", f"file://{tmp_path}/to{at}", []
        with GCSSaver.from_conn_string(source) as saver:
            for n in range(10, 81, 10):
                put(saver, "t", n, n - 10 or None, run="run")
            put(saver, "t", 45, 30, run="run")
            saver.put_writes(cfg(n=40), [("messages", noise("large", 150_000))], "task")
            before = everything(saver)
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(source, interceptors=[rounds]) as saver,
            GCSSaver.from_conn_string(source) as other,
            GCSSaver.from_conn_string(target) as second,
        ):

            def step(number, at=at, done=done, other=other):
                if number == at:
                    done.append(number)
                    meanwhile(other)

            rounds.call(step)
            try:
                moved = saver.admin.transfer_thread("t", second)
            except InvalidInputError:
                # A checkpoint that others build on was deleted and stored with other frames, so it cannot be rebuilt.
                refused.add(meanwhile)
                continue
            after, copied = everything(other), everything(second)
            for key, one in copied.items():
                assert one[:3] in ((before.get(key) or (0,))[:3], (after.get(key) or (0,))[:3]), f"{at}: {key}"
            assert before.keys() & after.keys() <= copied.keys()
            assert not [finding for finding in moved.findings if finding.is_damage], f"{at}: {moved.findings}"
            findings = [one for one in second.admin.verify("t", depth="data") if one.kind != "unreferenced"]
            assert findings == [], f"{at}: {findings}"
        if not done:
            break
    assert at > 6
    assert refused <= {_again}


def test_a_target_that_is_written_to_meanwhile(tmp_path):
    """It keeps what it got, and never counts as a whole one beside it."""
    source, refused = f"file://{tmp_path}/source", 0
    with GCSSaver.from_conn_string(source) as saver:
        for n in range(10, 51, 10):
            put(saver, "t", n, n - 10 or None)
        before = everything(saver)
    for at in count():
        target, done = f"file://{tmp_path}/{at}", []
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(source) as saver,
            GCSSaver.from_conn_string(target, interceptors=[rounds]) as second,
            GCSSaver.from_conn_string(target) as other,
        ):

            def step(number, at=at, done=done, other=other, target=target):
                if number == at and not done:
                    fields = open_raw(target).documents().get(keys.thread_doc("t"), {})
                    done.append("claim" in fields and "copying" not in fields)
                    put(other, "t", 95)

            rounds.call(step)
            is_done = True
            try:
                saver.admin.transfer_thread("t", second)
            except InvalidInputError:
                refused += 1
                is_done = False
            found = everything(other)
            own = found.pop(("", 95), None)
            assert (own is not None) is bool(done)
            assert found == {key: before[key] for key in found}
            assert is_done is (own is None or done == [True])
            if is_done:
                assert found == before
        if not done:
            break
    assert at > 6
    assert refused > 3


@pytest.mark.parametrize("mark", ["deleting", "copying"])
def test_what_a_deletion_or_a_copy_has_left_is_no_thread(tmp_path, there, mark):
    """It began after the thread's document was read, and crashed before the thread's documents were listed."""
    source = f"file://{tmp_path}/source"
    raw = open_raw(source)
    rounds = BeforeRounds()
    with (
        GCSSaver.from_conn_string(source, interceptors=[rounds]) as saver,
        GCSSaver.from_conn_string(there) as second,
    ):
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
        before = raw.documents()

        def step(number):
            if number == 1:
                raw.set_document(keys.thread_doc("t"), {**before[keys.thread_doc("t")], mark: "x"})
                raw.delete_document(keys.checkpoint_doc("t", "", cid(20)))

        rounds.call(step)
        with pytest.raises((ConflictError, InvalidInputError), match=r"is being deleted|is an unfinished copy"):
            saver.admin.transfer_thread("t", second)
        assert comparable(there, "t") == ({}, {})


def test_root_checkpoints_that_go_are_not_expected_there(tmp_path, there):
    """The thread's document was read when it had one, and its checkpoints when it had none."""
    source = f"file://{tmp_path}/source"
    rounds = BeforeRounds()
    with (
        GCSSaver.from_conn_string(source, interceptors=[rounds]) as saver,
        GCSSaver.from_conn_string(source) as other,
    ):
        put(saver, "t", 10, run="run")
        put(saver, "t", 21, ns="sub:1", roots={"": cid(10)})

        def step(number):
            if number == 1:
                other.delete_for_runs(["run"])

        rounds.call(step)
        with GCSSaver.from_conn_string(there) as second:
            saver.admin.transfer_thread("t", second)
            assert second.get_tuple(cfg("t")) is other.get_tuple(cfg("t")) is None
            assert everything(second) == everything(other)


@pytest.mark.parametrize("is_export", [False, True])
def test_the_runs_of_what_was_moved_are_known_there(tmp_path, is_export):
    """Even if `delete_for_runs` deletes both the checkpoints and the run's document meanwhile."""
    for at in count():
        source, target, done = f"file://{tmp_path}/{at}", f"file://{tmp_path}/to{at}", []
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(source, interceptors=[rounds]) as saver,
            GCSSaver.from_conn_string(source) as other,
            GCSSaver.from_conn_string(target) as second,
        ):
            put(saver, "t", 10, run="run")
            put(saver, "t", 20, 10, run="run")

            def step(number, at=at, done=done, other=other):
                if number == at:
                    done.append(number)
                    other.delete_for_runs(["run"])

            rounds.call(step)
            if is_export:
                if saver.admin.export_thread("t", tmp_path / f"{at}.tar"):
                    second.admin.import_thread(tmp_path / f"{at}.tar")
            else:
                saver.admin.transfer_thread("t", second)
            second.delete_for_runs(["run"])
            assert everything(second) == {}, at
        if not done:
            break
    assert at > 6


@MOSTLY_LOCAL
def test_what_is_too_large_to_decode_is_moved(make_saver, there):
    with make_saver() as saver, GCSSaver.from_conn_string(there, max_value_bytes=5000) as second:
        put(saver, "t", 1)
        assert "max_value_bytes" in saver.admin.transfer_thread("t", second).undecoded
        with GCSSaver.from_conn_string(there) as third:
            assert everything(third) == everything(saver)


class Spoiling(Interceptor):
    """Stores objects with a wrong last byte."""

    def around(self, effect, perform):
        if isinstance(effect, PutBlob):
            effect = PutBlob(effect.name, effect.data[:-1] + b"?")
        return perform(effect)


@MOSTLY_LOCAL
def test_what_the_target_gives_back_is_compared(make_saver, there):
    with make_saver(inline_max_bytes=0) as saver, GCSSaver.from_conn_string(there, interceptors=[Spoiling()]) as second:
        put(saver, "t", 1)
        with pytest.raises(CheckpointVerificationError, match="differently"):
            saver.admin.transfer_thread("t", second)


class Failing(Interceptor):
    """A store that does not answer."""

    def around(self, effect, perform):
        raise StoreUnavailableError("It does not answer.")


@pytest.mark.parametrize("which", ["source", "target"])
def test_an_error_says_which_of_the_two_stores_failed(tmp_path, there, which):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/here") as saver:
        put(saver, "t", 1)
    options = {which: {"interceptors": [Failing()]}}
    with (
        GCSSaver.from_conn_string(f"file://{tmp_path}/here", **options.get("source", {})) as saver,
        GCSSaver.from_conn_string(there, **options.get("target", {})) as second,
        pytest.raises(StoreUnavailableError, match=f"^Store '{which}': It does not answer"),
    ):
        saver.admin.transfer_thread("t", second)


def test_the_source_is_read_while_the_target_is_written(tmp_path, there):
    with (
        GCSSaver.from_conn_string(f"file://{tmp_path}/here", inline_max_bytes=2000) as saver,
        GCSSaver.from_conn_string(there) as second,
    ):
        for n in range(1, 81):
            build.put(saver, n, {"large": build.noise(3000, n)}, parent=n - 1 or None)
        stores = NamedStores({SOURCE: saver._backend, TARGET: second._backend}, home=TARGET)

        def transferred():
            rounds = []
            flow = transfer("t", dry_run=False, loads=second._loads, context=second._context)
            run(rounds_of(flow, rounds), stores)
            return [Counter(map(request, effects)) for effects in rounds if any(map(request, effects))]

        first, again = transferred(), transferred()
    blob_pages = [
        {"source GetBlob": 32},
        {"source GetBlob": 32, "target PutBlob": 32},
        {"source GetBlob": 16, "target PutBlob": 32},
        {"target PutBlob": 16},
    ]
    at = first.index(blob_pages[0])
    assert first[at : at + 4] == blob_pages
    assert first[at + 4 : at + 9] == [
        {"source GetDocs": 1},
        *[{"source GetDocs": 1, "target Commit": 1}] * 3,
        {"target Commit": 1},
    ]
    assert again.count({"source GetDocs": 1, "target GetDocs": 1}) == 4
    assert not any("target Commit" in each or "target PutBlob" in each for each in again)


def request(effect):
    """Which store performs which request; `None` for a local act."""
    store, effect = (effect.store, effect.effect) if isinstance(effect, On) else (TARGET, effect)
    return f"{store} {type(effect).__name__}" if isinstance(effect, REQUESTS) else None


@MOSTLY_LOCAL
def test_nothing_of_the_source_is_written(make_saver, there):
    with make_saver(inline_max_bytes=0) as saver:
        put(saver, "t", 1)
    seen = Seen()
    with make_saver(interceptors=[seen]) as saver, GCSSaver.from_conn_string(there) as second:
        saver.admin.transfer_thread("t", second)
    assert seen.only_reads()


# Archives from elsewhere


@pytest.fixture
def tar(tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/origin", inline_max_bytes=0) as saver:
        put(saver, "t", 1)
        saver.put_writes(cfg(n=1), [("a", 1)], "task")
        saver.admin.export_thread("t", tmp_path / "t.tar")
    return tmp_path / "t.tar"


def refused(path, tmp_path, error=GCSSaverError):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/new") as saver:
        with pytest.raises(error) as caught:
            saver.admin.import_thread(path)
        assert not (tmp_path / "new").exists()
    return caught.value


def test_any_tar_reads_it(tar):
    with tarfile.open(tar) as opened:
        members = opened.getmembers()
        index = json.load(opened.extractfile("index.json"))
    assert members[0].name == "archive.json"
    assert all(member.isreg() for member in members)
    assert len(members) == 3 + len(index["objects"]) + len(index["documents"])


def test_every_flipped_byte_is_refused(tar, tmp_path):
    data = tar.read_bytes()
    bad = tmp_path / "bad.tar"
    for at in range(0, len(data) - 1024, 97):
        bad.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        try:
            archive = Archive(bad)
        except GCSSaverError:
            continue
        # Only padding, and modes and owners in a header, may change unnoticed.
        archive.close()
        with Archive(tar) as whole, archive:
            assert archive.contents() == whole.contents()


@pytest.mark.parametrize("cut", [0, 100, 600, 5000, -1500, -3000])
def test_a_cut_archive_is_refused(tar, tmp_path, cut):
    data = tar.read_bytes()
    tar.write_bytes(data[:cut])
    refused(tar, tmp_path)


def rewrite(tar, change):
    """The archive with other members, made by Python's own tarfile."""
    with tarfile.open(tar) as opened:
        members = [(member, opened.extractfile(member).read()) for member in opened.getmembers()]
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as opened:
        change(opened, members)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_the_like_are_refused(tar, tmp_path, kind):
    def change(opened, members):
        for number, (member, data) in enumerate(members):
            if number == 1:
                member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            opened.addfile(member, None if number == 1 else BytesIO(data))

    rewrite(tar, change)
    refused(tar, tmp_path, InvalidInputError)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "objects/../x", "documents/00000009", "objects/1", "x" * 300])
def test_other_names_are_refused(tar, tmp_path, name):
    def change(opened, members):
        for number, (member, data) in enumerate(members):
            if number == 1:
                member.name = name
            opened.addfile(member, BytesIO(data))

    rewrite(tar, change)
    refused(tar, tmp_path, InvalidInputError)


@pytest.mark.parametrize(
    "name",
    [
        keys.thread_doc("u"),
        f"{keys.checkpoints('u')}/ce~!~",
        f"{keys.checkpoints('t')}/nonsense",
        f"{keys.checkpoints('t')}/../ce~!~",
        f"{keys.writes('t')}/~!ce~",
        f"{keys.thread_doc('t')}/lg_other/x",
        f"lg_runs/../lg_threads/{keys.spread('t')}",
        "lg_setup/x",
        f"{keys.aside('t')}/__x__",
        "",
        "/",
    ],
)
def test_documents_of_others_are_refused(tmp_path, name):
    new = NewArchive(tmp_path / "bad.tar")
    new.begin("t")
    new.add_doc(Doc(name, {"a": 1}, 1, 1))
    with pytest.raises(InvalidInputError, match="not the thread's"):
        new.finish()
    new.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../../x.zst",
        f"{keys.spread('u')}/~/1/a-12345678.zst",
        f"{keys.spread('t')}/../x",
        f"{keys.spread('t')}/~/1/{'a' * 250}-12345678.zst",
        f"{keys.spread('t')}/~/1/a.zst",
    ],
)
def test_objects_of_others_are_refused(tmp_path, name):
    new = NewArchive(tmp_path / "bad.tar")
    new.begin("t")
    new.add_blob(name, b"x")
    with pytest.raises(InvalidInputError, match="not the thread's"):
        new.finish()
    new.discard()


def test_what_stands_elsewhere_is_refused(tar, tmp_path):
    def change(opened, members):
        index = [one for one in members if one[0].name.startswith("index.")]
        rest = [one for one in members if not one[0].name.startswith("index.")]
        for member, data in [rest[0], *index, *rest[1:]]:
            opened.addfile(member, BytesIO(data))

    rewrite(tar, change)
    refused(tar, tmp_path, InvalidInputError)


@pytest.mark.parametrize("name", ["../../../../x", "~/1/a-12345678.zst/../../../x", "", "/x"])
def test_objects_that_a_document_lists_are_the_threads_own(tmp_path, there, name):
    """A stripped document takes no object of another thread with it. Such names do not stop a collection either."""
    new = NewArchive(tmp_path / "bad.tar")
    new.begin("t")
    listed = json.dumps([f"{keys.spread('t')}/{name}"])
    new.add_doc(Doc(keys.checkpoint_doc("t", "", cid(1)), {"objects": listed}, 1, 1))
    new.finish()
    with GCSSaver.from_conn_string(there) as saver:
        saver.admin.import_thread(tmp_path / "bad.tar")
        saver.admin.collect()
    assert not open_raw(there).documents().keys() & {keys.checkpoint_doc("t", "", cid(1))}


def test_where_no_file_can_be(tar, tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/origin") as saver:
        with pytest.raises(StoreError, match="Not a directory"):
            saver.admin.export_thread("t", tar / "t.tar")
        with pytest.raises(StoreError, match="too long"):
            saver.admin.export_thread("t", tmp_path / ("x" * 256))
        for directory in (".", "/", "", tmp_path):
            with pytest.raises(InvalidInputError, match="is not a file"):
                saver.admin.export_thread("t", directory)
        # As long as a name can be.
        saver.admin.export_thread("t", tmp_path / ("\N{HIRAGANA LETTER A}" * 85))
    assert len(list(tmp_path.iterdir())) == 3


def test_documents_that_no_store_can_hold_are_refused(tmp_path, monkeypatch):
    name = keys.thread_doc("t")
    from langgraph_gcs_saver.stores import archive
    from langgraph_gcs_saver.stores.messages import PbMapValue

    foreign = PbMapValue()
    foreign.fields["when"].timestamp_value.seconds = 1
    reserved = PbMapValue()
    reserved.fields["__x__"].integer_value = 1
    for message in (foreign, reserved):
        with monkeypatch.context() as patch:
            patch.setattr(archive, "to_map", lambda _, message=message: message)
            new = NewArchive(tmp_path / "bad.tar")
            new.begin("t")
            new.add_doc(Doc(name, {}, 1, 1))
            patch.setattr(Archive, "__init__", lambda *_: None)
            patch.setattr(Archive, "close", lambda _: None)
            new.finish()
        refused(tmp_path / "bad.tar", tmp_path, InvalidInputError)


def test_numbers_are_bounded(tar, tmp_path, monkeypatch):
    monkeypatch.setattr("langgraph_gcs_saver.stores.archive.MAX_MEMBERS", 2)
    refused(tar, tmp_path, InvalidInputError)


def test_sizes_are_bounded(tar, tmp_path):
    with pytest.raises(InvalidInputError, match="at most"):
        Archive(tar, max_object=10)
    info = tarfile.TarInfo("archive.json")
    info.size = 1 << 40
    (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    refused(tmp_path / "huge.tar", tmp_path, DamageError)
    (tmp_path / "huge.tar").write_bytes(b"")
    refused(tmp_path / "huge.tar", tmp_path, InvalidInputError)
    refused(tmp_path / "none.tar", tmp_path, InvalidInputError)
