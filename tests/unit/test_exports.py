import inspect
import re
from importlib import metadata, resources

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver

import langgraph_gcs_saver
from langgraph_gcs_saver import GCSSaver, SetupReport, events
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.operations import Calls, Operations
from langgraph_gcs_saver.saver.saga import Saga
from langgraph_gcs_saver.saver.team import TeamSets
from tests.kit import methods

LANGGRAPHS = (
    "get_tuple",
    "list",
    "put",
    "put_writes",
    "delete_thread",
    "delete_for_runs",
    "copy_thread",
    "prune",
    "get_delta_channel_history",
)
"""What LangGraph's base class declares."""

OURS = ("setup", "ping", "warm", "close")
TWINS = [(GCSSaver, name, f"a{name}") for name in (*LANGGRAPHS, *OURS)]

ADMINS = (
    *("checkpoint_at", "checkpoint_ids", "threads", "history", "stats", "pin", "unpin", "pins", "holds", "pause"),
    *("repair", "prune", "collect", "sweep", "delete_thread", "delete_for_runs", "plan_delete_thread", "carry_out"),
    *("copy_thread", "transfer_thread", "export_thread", "import_thread", "migrate", "rebind"),
    *("operations", "resolve_operation", "batches", "sagas", "status", "train", "replicate", "replication"),
    "failover",
)
TWINS += [(Admin, name, f"a{name}") for name in ADMINS]
TWINS += [(Operations, name, f"a{name}") for name in ("once", "unresolved", "resolve")]
TWINS += [(Calls, "perform", "aperform")]
TWINS += [(Saga, name, f"a{name}") for name in ("once", "savepoint", "finish", "rollback", "resume", "resolve", "info")]
TWINS += [
    (TeamSets, name, f"a{name}")
    for name in ("threads", "checkpoint", "sets", "verify", "restore", "remove", "delete_set", "delete")
]
STREAMS = {"alist"}
PUBLIC = [
    (kind, name)
    for kind in (Connection, GCSSaver, Admin)
    for name, found in vars(kind).items()
    if not name.startswith("_") and (callable(found) or isinstance(found, classmethod | property))
]


def every(base):
    """All subclasses of a class."""
    return [found for cls in base.__subclasses__() for found in (cls, *every(cls))]


def test_public_names():
    reports = {
        "Finding",
        "RepairPlan",
        "RepairStep",
        "SetupReport",
        "PrunePlan",
        "RunPlan",
        "CopyPlan",
        "RebindPlan",
        "CollectPlan",
        "DeletePlan",
    }
    reports |= {"IdleThread", "Transfer", "Migration", "KeepLast", "KeepFor", "KeepEvery"}
    reports |= {"NOT_DONE", "UNKNOWN", "RunToolsOnce", "operations", "SagaInfo", "SagaStep", "compensation"}
    assert {"GCSSaver", "__version__", "errors", "events", *reports} <= set(langgraph_gcs_saver.__all__)
    in_order = sorted(langgraph_gcs_saver.__all__, key=lambda name: (not name.isupper(), name))
    assert langgraph_gcs_saver.__all__ == in_order
    for name in langgraph_gcs_saver.__all__:
        assert getattr(langgraph_gcs_saver, name) is not None


def test_a_star_import_gives_exactly_these():
    found = {}
    exec("from langgraph_gcs_saver import *", found)
    assert found.keys() - {"__builtins__"} == set(langgraph_gcs_saver.__all__)


def test_the_version_is_the_distributions():
    assert langgraph_gcs_saver.__version__ == metadata.version("langgraph-gcs-saver")


def test_types_are_shipped():
    assert resources.files("langgraph_gcs_saver").joinpath("py.typed").is_file()


def test_the_savers_own_methods():
    own = {name for kind, *pair in TWINS for name in pair if kind is GCSSaver}
    own |= {"from_conn_string", "get_next_version", "subscribe", "admin", "thread", "team", "runs", "recover"}
    assert {name for kind, name in PUBLIC if kind is not Admin} == own
    assert len(own - set(dir(BaseCheckpointSaver))) <= 30
    assert issubclass(GCSSaver, BaseCheckpointSaver)


def test_the_methods_of_admin():
    own = {name for kind, *pair in TWINS for name in pair if kind is Admin}
    assert {name for kind, name in PUBLIC if kind is Admin} == own | methods.EACH | {"watch", "team", "follow"}


@pytest.mark.parametrize(("kind", "name"), PUBLIC)
def test_public_methods_are_documented(kind, name):
    text = inspect.getattr_static(kind, name)
    text = getattr(text, "__func__", text).__doc__
    assert text
    assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("found", [GCSSaver, SetupReport, Options, *every(events.Event)])
def test_public_classes_are_documented(found):
    assert found.__doc__
    assert not found.__doc__.startswith(f"{found.__name__}(")  # what dataclasses make up
    inherited = getattr(found.__base__, "__dataclass_fields__", {})
    for name in getattr(found, "__dataclass_fields__", {}):
        if name not in inherited:
            assert re.search(rf"^\s+{name}: ", found.__doc__, re.MULTILINE), name


def test_the_constructor_and_its_options_are_documented():
    documented = re.findall(r"^        (\w+): ", inspect.getdoc(GCSSaver).replace("\n    ", "\n        "), re.MULTILINE)
    assert set(inspect.signature(GCSSaver).parameters) <= set(documented)
    options = inspect.signature(Options).parameters
    for name in options:
        assert f"`{name}`" in GCSSaver.__doc__, name
        assert f"{name}:" in Options.__doc__, name


@pytest.mark.parametrize(("kind", "sync", "asynchronous"), TWINS)
def test_twins_have_one_signature(kind, sync, asynchronous):
    one, other = (inspect.signature(getattr(kind, name)) for name in (sync, asynchronous))
    assert one.parameters == other.parameters
    assert str(other.return_annotation).removeprefix("Async") == one.return_annotation
    assert inspect.iscoroutinefunction(getattr(kind, asynchronous)) == (asynchronous not in STREAMS)
    assert not inspect.iscoroutinefunction(getattr(kind, sync))


@pytest.mark.parametrize(("kind", "sync", "asynchronous"), TWINS)
def test_the_asynchronous_twins_doc_names_the_other(kind, sync, asynchronous):
    if sync != "close":
        doc = getattr(kind, asynchronous).__doc__
        assert f"Asynchronous twin of `{sync}`" in doc
        assert ("`async for`" in doc) == (asynchronous in STREAMS)


@pytest.mark.parametrize("name", [name for _, *pair in TWINS[: len(LANGGRAPHS)] for name in pair])
def test_methods_take_what_langgraph_passes(name):
    """By position and by keyword: the base's parameters, in their order, with their defaults; more have to be named."""
    ours = list(inspect.signature(getattr(GCSSaver, name)).parameters.values())
    base = list(inspect.signature(getattr(BaseCheckpointSaver, name)).parameters.values())
    more = ours[len(base) :]
    assert [(p.name, p.kind, p.default) for p in ours[: len(base)]] == [(p.name, p.kind, p.default) for p in base]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in more)
