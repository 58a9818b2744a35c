"""Documents of sagas that others have changed: they are damage, and no step or undo begins by them."""

import hashlib

import pytest

from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ClearTextError, DamageError, OutcomeUnknownError
from langgraph_gcs_saver.flows import operations, sagas
from langgraph_gcs_saver.flows.operations import Call, Claim, Outcome, Part
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Undo
from langgraph_gcs_saver.saver import compensations
from tests.incremental.eax import Eax

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
SECRET = Serialized("text", b"a secret request")


def do(saver, flow):
    return run(flow, saver._backend)


def opened(saver, thread="t", saga_id="trip"):
    return do(saver, sagas.open_(thread, saga_id, saver._context.new_attempt(), saver._context))


def claim(saver, saga, name):
    undo = Undo("a secret undo", 1, SECRET)
    key = sagas.step_key(saga.saga_id, name)
    part = Part(saga, name, undo)
    call = Call(saga.thread_id, key, name, "request", saver._context.new_attempt(), part=part)
    return do(saver, operations.claim(call, saver._context))


def book(saver, name, thread="t", saga_id="trip"):
    claimed = claim(saver, opened(saver, thread, saga_id), name)
    assert isinstance(claimed, Claim)
    return do(saver, operations.record_outcome(claimed, Outcome("done", SECRET), saver._context))


def roll_back(saver, saga_id="trip"):
    """The steps that a rollback would undo."""
    saga = opened(saver, saga_id=saga_id)
    saga = do(saver, sagas.mark(saga, saver._context.new_attempt(), None, None, saver._context))
    return [one.key for one in sagas.to_undo(saga, do(saver, sagas.steps(saga, saver._context)))]


def refuses(saver, name):
    """No call believes the saga, and the checks find it."""
    for call in (
        lambda: opened(saver),
        lambda: do(saver, sagas.read("t", "trip", saver._context)),
        lambda: do(saver, sagas.listed("t", saver._context)),
    ):
        with pytest.raises(DamageError):
            call()
    assert name in [one.name for one in saver.admin.verify("t")]
    assert [one.thread_id for one in saver.admin.plan_collect("t") if one.skipped] == ["t"]


@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
def test_a_state_that_differs_from_the_sealed_one(make_saver, raw, cipher):
    saver, name = make_saver(cipher=cipher), keys.saga_doc("t", "trip")
    book(saver, "hotel")
    known = opened(saver)
    raw.set_document(name, {**raw.documents()[name], "state": "compensated"})
    refuses(make_saver(cipher=cipher), name)
    with pytest.raises(OutcomeUnknownError):
        claim(make_saver(cipher=cipher), known, "hotel")


@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
@pytest.mark.parametrize("source", [("t", "other"), ("u", "trip")], ids=["of another saga", "of another thread"])
def test_an_envelope_of_another_saga(make_saver, raw, cipher, source):
    saver, name = make_saver(cipher=cipher), keys.saga_doc("t", "trip")
    opened(saver)
    opened(saver, *source)
    raw.set_document(name, raw.documents()[keys.saga_doc(*source)])
    refuses(make_saver(cipher=cipher), name)


def test_an_envelope_of_another_thread_with_a_new_digest(make_saver, raw):
    """Without the key, nothing else can be made."""
    saver, name = make_saver(cipher=KEY), keys.saga_doc("t", "trip")
    opened(saver)
    opened(saver, "u")
    fields = raw.documents()[keys.saga_doc("u", "trip")]
    frame = fields["saga"][32:]
    digest = hashlib.sha256(b"%s\0saga\0%s" % (name.encode(), frame)).digest()
    raw.set_document(name, {**fields, "saga": digest + frame})
    refuses(make_saver(cipher=KEY), name)


@pytest.mark.parametrize("field", ["saga", "digest and saga", "removed"])
def test_a_step_that_is_said_to_be_of_another_saga(make_saver, raw, field):
    saver = make_saver(cipher=KEY)
    step = book(saver, "hotel")
    opened(saver, saga_id="other")
    fields = dict(raw.documents()[step.document])
    fields["saga"] = "other"
    if field != "saga":
        clear = b"%s\0done\0" % step.document.encode() + (b"" if field == "removed" else b"other\0")
        fields["digest"] = hashlib.sha256(clear + fields["operation"]).digest()
    if field == "removed":
        del fields["saga"]
    raw.set_document(step.document, fields)
    saver = make_saver(cipher=KEY)
    assert [one.name for one in saver.admin.verify("t")] == [step.document]
    with pytest.raises(DamageError):
        saver.admin.operations("t")
    if field != "removed":
        with pytest.raises(DamageError):
            roll_back(saver, "other")


@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
@pytest.mark.parametrize("stored", ["other", "missing"])
def test_a_rollback_undoes_nothing_if_a_query_may_miss_a_step(make_saver, raw, cipher, stored, monkeypatch):
    monkeypatch.setattr(compensations, "_KNOWN", {})
    undone = []
    compensations.compensation("cancel a step")(lambda request, result, key: undone.append(result))
    saver = make_saver(cipher=cipher)
    with saver.thread("t").saga("trip") as saga:
        for name in ("hotel", "flight"):
            saga.once(name, lambda name=name: name, undo="cancel a step")
    document = keys.operation_doc("t", saga.info().steps[0].key)
    fields = dict(raw.documents()[document])
    changed = {**fields, "saga": "other"} if stored == "other" else {**fields, "saga": None}
    raw.set_document(document, {name: value for name, value in changed.items() if value is not None})
    saga = make_saver(cipher=cipher).thread("t").saga("trip")
    assert [step.name for step in saga.info().steps] == ["flight"]
    for call in (lambda: saga.rollback(dry_run=True), saga.rollback, saga.resume):
        with pytest.raises(DamageError, match=document):
            call()
    assert undone == []
    assert [one.state for one in saver.admin.rollbacks()] == ["compensating"]
    raw.set_document(document, fields)
    assert saga.resume().state == "compensated"
    assert undone == ["flight", "hotel"]


def test_what_remains_possible_with_sagas(make_saver, raw):
    """A rollback does not miss a step whose document was deleted."""
    saver = make_saver(cipher=KEY)
    step = book(saver, "hotel")
    book(saver, "flight")
    raw.delete_document(step.document)
    assert roll_back(make_saver(cipher=KEY)) == ["saga trip flight"]


def test_a_saga_in_clear_is_not_read_with_a_key(make_saver, raw):
    book(make_saver(), "hotel")
    saver = make_saver(cipher=KEY)
    for call in (lambda: opened(saver), lambda: saver.copy_thread("t", "copy")):
        with pytest.raises(ClearTextError):
            call()
    assert keys.saga_doc("t", "trip") in [one.name for one in saver.admin.verify("t") if one.kind == "clear"]


def test_what_of_a_saga_is_in_clear(make_saver, raw):
    saver = make_saver(cipher=KEY)
    book(saver, "a secret step")
    saga = do(saver, sagas.savepoint(opened(saver), "a secret savepoint", None, saver._context))
    do(saver, sagas.mark(saga, "nonce", "a secret savepoint", None, saver._context))
    stored = repr(raw.documents())
    assert "secret" not in stored
    assert "trip" in stored
