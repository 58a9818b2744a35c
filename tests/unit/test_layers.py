"""The direction of dependencies, read from the source (STYLE: `cli -> saver -> flows -> manifest, frames, effects`)."""

import ast
from pathlib import Path

import pytest

import langgraph_gcs_saver

PACKAGE = "langgraph_gcs_saver"
ROOT = Path(langgraph_gcs_saver.__file__).parent
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
SERVICES = ("google", "grpc", "sqlite3")
CLIENTS = tuple(f"{PACKAGE}.{name}" for name in ("stores", "runners", "admin", "saver", "cli", "testing"))


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


COMPUTED = "a name that is computed"


def imports(source, *, typing=True):
    """What a module imports, anywhere in it; `from a import b` counts as `a` and as `a.b`."""
    found, pending = set(), [ast.parse(source)]
    while pending:
        node = pending.pop()
        if is_type_checking(node) and not typing:
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.add(node.args[0].value if isinstance(node.args[0], ast.Constant) else COMPUTED)
    return found


def below(found, tops):
    return {name for name in found if any(name == top or name.startswith(f"{top}.") for top in tops)}


def of(module, **options):
    return imports(MODULES[module].read_text(), **options)


def flows():
    return [name for name in MODULES if below({name}, [f"{PACKAGE}.flows"])]


def test_there_is_something_to_look_at():
    assert len(MODULES) > 20
    assert {f"{PACKAGE}.flows.checkpoints", f"{PACKAGE}.flows.writes", f"{PACKAGE}.stores.local"} <= MODULES.keys()
    assert "sqlite3" in of(f"{PACKAGE}.stores.local")
    assert below(of(f"{PACKAGE}.stores.firestore"), ["google"])
    assert imports("def f():\n if TYPE_CHECKING:\n  import a.b\n else:\n  from c import d", typing=False) == {
        "c",
        "c.d",
    }
    assert imports("importlib.import_module('grpc.aio')") == {"grpc.aio"}


def test_names_of_modules_are_computed_where_they_are_imported_late_only():
    assert {name for name in MODULES if COMPUTED in of(name)} == {
        PACKAGE,
        f"{PACKAGE}.flows",
        f"{PACKAGE}.cli.migrate",  # an optional checkpointer
        f"{PACKAGE}.cli.modules",  # what the person at the command line names
    }


@pytest.mark.parametrize("module", flows())
def test_flows_perform_nothing(module):
    """They ask for it by effects: no store, no runner, no clock, no log, no randomness, no threads."""
    found = of(module)
    # Of `datetime` only the span: it tells no time.
    assert below(found, ["datetime"]) <= {"datetime", "datetime.timedelta"}
    acts = ("time", "random", "secrets", "uuid", "logging", "threading", "asyncio", "concurrent", "os")
    assert not below(found, (*SERVICES, *CLIENTS, *acts, "socket", "pathlib", "warnings"))
    assert "print" not in {ast.unparse(n.func) for n in ast.walk(parse(module)) if isinstance(n, ast.Call)}


WIRE = (f"{PACKAGE}.testing.proxy", f"{PACKAGE}.testing.http_proxy")
"""What stands between a store and its service speaks the service's language too."""


@pytest.mark.parametrize("module", [name for name in MODULES if not below({name}, [f"{PACKAGE}.stores", *WIRE])])
def test_only_stores_import_the_services(module):
    found = below(of(module, typing=module not in {f"{PACKAGE}.admin", f"{PACKAGE}.saver"}), SERVICES)
    assert not found


@pytest.mark.parametrize(
    ("module", "may"),
    [
        ("errors", ()),
        ("events", ("records",)),
        ("cache", ("turn",)),
        ("configs", ()),
        ("garbage", ("turn",)),
        ("turn", ()),
        ("records", ()),
        ("comparison", ()),
        ("effects", ("events", "records")),
        ("keys", ()),
        ("dictionary", ()),
        ("frames", ("dictionary", "keys", "records", "splices")),
        ("splices", ("comparison", "records")),
        ("digests", ("comparison", "records")),
        ("chains", ("digests", "frames", "manifest", "records")),
        ("filters", ("keys",)),
        ("shapes", ("portable",)),
        ("manifest", ("frames", "keys", "effects", "records", "shapes")),
        ("refusals", ()),
        ("serialization", ("manifest", "refusals")),
        ("interceptors", ("effects",)),
        ("options", ("events", "interceptors", "keys", "retention")),
        ("retention", ()),
        ("portable", ("records", "refusals")),
        ("edits", ("portable", "records", "refusals")),
        ("diff", ("portable", "records")),
        ("pool", ()),
        ("upkeep", ("pool",)),
        ("runners", ("effects", "events", "interceptors", "pool", "stores")),
        ("files", ()),
        ("settings", ("files", "effects", "keys", "options")),
        ("stores", ("effects",)),
        ("requests", ("configs", "filters", "flows", "keys", "manifest", "serialization", "shapes")),
    ],
)
def test_the_direction_is_one_way(module, may):
    allowed = [f"{PACKAGE}.{name}" for name in ("errors", *may)]
    found = {name for name in below(of(f"{PACKAGE}.{module}"), [PACKAGE]) if name != PACKAGE}
    assert found - below(found, allowed) == set()


@pytest.mark.parametrize("module", [name for name in MODULES if below({name}, [f"{PACKAGE}.stores"])])
def test_stores_know_no_flow(module):
    assert not below(of(module), [f"{PACKAGE}.{name}" for name in ("flows", "runners", "saver", "cli", "manifest")])


def parse(module):
    return ast.parse(MODULES[module].read_text())


def own(function):
    """The nodes of a function without those of functions inside it."""
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


def bare_yields(tree, *, everywhere):
    """Lines of `yield x` in flows: functions that are annotated as one, or all that are not plain iterators."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            returns = "" if function.returns is None else ast.unparse(function.returns)
            if returns.startswith("Flow[") or (everywhere and not returns.startswith("Iterator[")):
                found += [node.lineno for node in own(function) if isinstance(node, ast.Yield)]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_effects_are_yielded_from(module):
    """A bare `yield effect` is typed `Any`, and in a flow's place gives the effect's own generator to nobody."""
    if module == f"{PACKAGE}.effects":
        assert len(bare_yields(parse(module), everywhere=True)) == 1
    else:
        assert bare_yields(parse(module), everywhere=module in flows()) == []


def test_the_look_for_bare_yields_sees_them():
    assert bare_yields(ast.parse("def f() -> Flow[int]:\n  if a:\n    x = yield Now()"), everywhere=False) == [3]
    assert bare_yields(ast.parse("def f():\n  yield from a\n  yield b"), everywhere=True) == [3]
    assert bare_yields(ast.parse("def f():\n  yield b"), everywhere=False) == []
    assert bare_yields(ast.parse("def f() -> Iterator[int]:\n  yield b"), everywhere=True) == []


def test_no_drawer_for_everything():
    assert not {path.stem for path in MODULES.values()} & {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize("module", [name for name in MODULES if not below({name}, [f"{PACKAGE}.cli"])])
def test_nobody_needs_what_the_command_line_needs(module):
    assert not below(of(module), ("typer", "rich", "click", f"{PACKAGE}.cli"))
