"""The direction of dependencies, read from the source: a table of folders, and what each may import."""

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

MAY_IMPORT = {
    "errors": "",
    "records": "",
    "events": "records",
    "engine": "errors events records",
    "portable": "errors records",
    "format": "engine errors portable records",
    "policy": "errors format records",
    "cadence": "errors records",
    "results": "errors policy records",
    "address": "errors format",
    "options": "cadence engine errors events policy",
    "provisioning": "address engine format",
    "flows": "engine errors events format policy portable provisioning records results",
    "stores": "address engine errors events format options records",
    "references": "engine errors portable records stores",
    "saver": "address cadence engine errors events flows format options policy portable provisioning records "
    "references results stores",
    "probes": "errors results saver",
    "telemetry": "engine errors events flows policy records saver",
    "monitoring": "address errors options provisioning records telemetry",
    "analytics": "engine errors events flows policy records saver",
    "testing": "cadence engine errors events flows format policy records results saver stores",
    "cli": "address analytics cadence engine errors events monitoring policy portable records results saver stores "
    "testing",
}
"""What a folder or file at the top may import, besides itself; each stands below all that it may import."""


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
    assert {f"{PACKAGE}.flows.save", f"{PACKAGE}.flows.writes", f"{PACKAGE}.stores.local"} <= MODULES.keys()
    assert "sqlite3" in of(f"{PACKAGE}.stores.local")
    assert below(of(f"{PACKAGE}.stores.google.firestore"), ["google"])
    assert imports("def f():\n if TYPE_CHECKING:\n  import a.b\n else:\n  from c import d", typing=False) == {
        "c",
        "c.d",
    }
    assert imports("importlib.import_module('grpc.aio')") == {"grpc.aio"}


def test_names_of_modules_are_computed_where_they_are_imported_late_only():
    assert {name for name in MODULES if COMPUTED in of(name)} == {
        PACKAGE,
        f"{PACKAGE}.flows",
        f"{PACKAGE}.errors",
        f"{PACKAGE}.errors.extras",
        f"{PACKAGE}.analytics",
        f"{PACKAGE}.cadence",
        f"{PACKAGE}.testing",
        f"{PACKAGE}.cli.commands.migrate",  # an optional checkpointer
        f"{PACKAGE}.cli.modules",  # what the person at the command line names
    }


@pytest.mark.parametrize("module", flows())
def test_flows_perform_nothing(module):
    """They ask for it by effects: no store, no runner, no clock, no log, no randomness, no threads."""
    found = of(module)
    # Of `datetime` only the span, which does not read the clock.
    assert below(found, ["datetime"]) <= {"datetime", "datetime.timedelta"}
    acts = ("time", "random", "secrets", "uuid", "logging", "threading", "asyncio", "concurrent", "os")
    assert not below(found, (*SERVICES, *acts, "socket", "pathlib", "warnings"))
    assert "print" not in {ast.unparse(n.func) for n in ast.walk(parse(module)) if isinstance(n, ast.Call)}


WIRE = (f"{PACKAGE}.testing.firestore_proxy", f"{PACKAGE}.testing.storage_proxy")
"""What stands between a store and its service speaks the service's language too."""

SINKS = tuple(f"{PACKAGE}.analytics.{name}" for name in ("services", "bigquery", "pubsub", "cloud_logging"))
"""The sinks of Google's services."""


@pytest.mark.parametrize("module", [n for n in MODULES if not below({n}, [f"{PACKAGE}.stores", *WIRE, *SINKS])])
def test_only_stores_import_the_services(module):
    found = below(
        of(module, typing=module not in {f"{PACKAGE}.saver.connection", f"{PACKAGE}.saver.checkpointer"}), SERVICES
    )
    assert not found


def room(module):
    """The folder or file at the top that a module is in."""
    return module.split(".")[1] if "." in module else PACKAGE


def test_every_room_is_in_the_table():
    assert {room(module) for module in MODULES} - {PACKAGE} == MAY_IMPORT.keys()
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_the_table_has_no_circle():
    """Each row names rooms above it only."""
    rows = list(MAY_IMPORT)
    assert all(rows.index(other) < place for place, row in enumerate(rows) for other in MAY_IMPORT[row].split())


@pytest.mark.parametrize("module", [name for name in MODULES if name != PACKAGE])
def test_rooms_import_what_the_table_allows(module):
    """The command line may also take what the package offers at its top, such as `GCSSaver`."""
    found = {name for name in below(of(module), [PACKAGE]) if name != PACKAGE}
    offered = {f"{PACKAGE}.{name}" for name in langgraph_gcs_saver.__all__}
    own = room(module)
    allowed = [f"{PACKAGE}.{name}" for name in (own, *MAY_IMPORT[own].split())] + (
        sorted(offered) if own == "cli" else []
    )
    assert found - below(found, allowed) == set()


def test_the_table_allows_no_more_than_is_used():
    used = {}
    for module in MODULES:
        if module != PACKAGE:
            used.setdefault(room(module), set()).update(room(name) for name in below(of(module), [PACKAGE]))
    assert {own: set(may.split()) - used[own] for own, may in MAY_IMPORT.items()} == {own: set() for own in MAY_IMPORT}


def test_modules_import_each_other_in_no_circle():
    """Within a room, too; imports for type checkers aside."""
    direct = {
        module: {name for name in below(of(module, typing=False), [PACKAGE]) & MODULES.keys() if name != module}
        for module in MODULES
        if module != PACKAGE
    }
    while leaves := {name for name, others in direct.items() if not others & direct.keys()}:
        direct = {name: others for name, others in direct.items() if name not in leaves}
    assert direct == {}


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
    """A bare `yield effect` is typed `Any`. Where a flow is needed, the generator of the effect would never run."""
    if module == f"{PACKAGE}.engine.effects":
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
