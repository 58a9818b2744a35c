"""The contents of the wheel and the sdist, and whether the wheel works without a clone of this repository."""

import ast
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from hashlib import sha256
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .conftest import ROOT, Installed, build, only

PACKAGE = ROOT / "langgraph_gcs_saver"
SOURCES = {
    path.relative_to(ROOT).as_posix()
    for path in PACKAGE.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
TOP = {
    *("langgraph_gcs_saver", "tests", "benchmarks", "docs", "notebooks"),
    *(
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "pyproject.toml",
        "Makefile",
        "mkdocs.yml",
        "PKG-INFO",
        ".ci",
        ".github",
        ".gitignore",
        *(f"requirements-{name}.txt" for name in ("dev", "bench", "server", "services", "oldest")),
    ),
}


def wheel_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sdist_files(sdist):
    with tarfile.open(sdist) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive.getmembers()
            if member.isfile()
        }


def info(files, name):
    (found,) = [data for path, data in files.items() if re.fullmatch(rf"[^/]+\.dist-info/{name}", path)]
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = wheel_files(wheel)
    packaged = {name for name in files if ".dist-info/" not in name}
    assert packaged == SOURCES
    assert "langgraph_gcs_saver/py.typed" in packaged
    assert all(files[name] == (ROOT / name).read_bytes() for name in packaged)
    described = {name.partition(".dist-info/")[2] for name in files} - {""}
    assert described == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert info(files, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_metadata(wheel):
    found = Parser().parsestr(info(wheel_files(wheel), "METADATA").decode())
    assert found["Name"] == "langgraph-gcs-saver"
    assert found["Metadata-Version"] == "2.4"  # a newer one was refused by the tools that upload
    assert found["License-Expression"] == "Apache-2.0"
    assert found["License-File"] == "LICENSE"
    assert found["Requires-Python"] == ">=3.10"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()
    extras: dict[str, set[str]] = {extra: set() for extra in found.get_all("Provides-Extra")}
    for need in map(Requirement, found.get_all("Requires-Dist")):
        for extra, names in extras.items():
            if need.marker is not None and need.marker.evaluate({"extra": extra}):
                names.add(need.name)
    assert extras == {
        "cli": {"rich", "typer"},
        "otel": {"opentelemetry-api"},
        "bigquery": {"google-cloud-bigquery-storage"},
        "pubsub": {"google-cloud-pubsub"},
        "logging": {"google-cloud-logging"},
        "report": {"duckdb", "matplotlib"},
    }


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_nothing_tells_where_it_was_built(kind, request):
    path = request.getfixturevalue(kind)
    files = (wheel_files if kind == "wheel" else sdist_files)(path)
    machine = {str(place).encode() for place in (ROOT, Path.home(), Path(sys.executable).parent)}
    # `/root` alone is a word of this library. In a path of the machine, a slash follows it.
    machine = {place + b"/" for place in machine if len(place) > 1}
    assert not [name for name, data in files.items() if any(place in data for place in machine)]


def test_the_sdist_holds_what_is_wanted(sdist):
    files = sdist_files(sdist)
    assert {name.partition("/")[0] for name in files} == TOP
    assert files.keys() >= SOURCES
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".log", ".sqlite3-wal"))]


def test_the_sdist_makes_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data") if sys.version_info >= (3, 12) else archive.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    built = {}
    for name, place in (("tree", ROOT), ("sdist", source)):
        build(place, tmp_path / name, "--wheel")
        built[name] = sha256(only(tmp_path / name, "*.whl").read_bytes()).hexdigest()
    assert built == dict.fromkeys(built, sha256(wheel.read_bytes()).hexdigest())


ROUND_TRIP = """
import sys
from langgraph_gcs_saver import GCSSaver
from langgraph.graph import END, START, MessagesState, StateGraph

def answer(state):
    return {"messages": [("ai", f"{len(state['messages'])} so far")]}

builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
config = {"configurable": {"thread_id": "1"}}
with GCSSaver.from_conn_string(sys.argv[1]) as saver:
    saver.setup()
    graph = builder.compile(checkpointer=saver)
    if len(sys.argv) > 2:
        graph.invoke({"messages": [("user", sys.argv[2])]}, config)
    print([message.content for message in graph.get_state(config).values["messages"]])
    assert list(saver.admin.verify("1")) == []
"""


def test_what_is_saved_is_there_in_the_next_process(plain, tmp_path):
    store = f"file://{tmp_path}/store"
    assert plain.python_says(ROUND_TRIP, store, "hello") == "['hello', '1 so far']"
    assert plain.python_says(ROUND_TRIP, store, "again") == "['hello', '1 so far', 'again', '3 so far']"
    assert plain.python_says(ROUND_TRIP, store) == "['hello', '1 so far', 'again', '3 so far']"


def test_it_is_the_wheel_that_runs(plain):
    where = plain.python_says("import langgraph_gcs_saver as it; print(it.__file__); print(it.__version__)").split()
    assert Path(where[0]).is_relative_to(plain.path / "venv")
    assert where[1] == re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]


def test_every_module_imports_without_extras(plain):
    """All but the command line, and what needs pytest."""
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in SOURCES
        if name.endswith(".py") and not re.match(r"langgraph_gcs_saver/(cli|telemetry|testing)/", name)
    )
    code = (
        "import importlib, importlib.util, sys\n"
        "assert [name for name in ('typer', 'rich', 'pytest', 'hypothesis') if importlib.util.find_spec(name)] == []\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(len(sys.argv) - 1)"
    )
    assert int(plain.python_says(code, *modules)) == len(modules) > 40


def test_the_command_says_what_it_needs(plain):
    done = plain.run(plain.bin / "langgraph-gcs", "--help", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        r'langgraph-gcs: \w+ is not installed\. Install it with `pip install "langgraph-gcs-saver\[cli\]"`\.\n',
        done.stderr,
    )


def test_the_command_works_with_its_extra(with_cli, tmp_path):
    command, store = with_cli.bin / "langgraph-gcs", f"file://{tmp_path}/store"
    with_cli.python_says(ROUND_TRIP, store, "hello")
    shown = with_cli.run(command, "threads", "--json", LANGGRAPH_GCS_STORE=store).stdout
    assert [thread["thread_id"] for thread in json.loads(shown)] == ["1"]
    assert "hello" in with_cli.run(command, "show", "1", LANGGRAPH_GCS_STORE=store).stdout
    assert with_cli.run(with_cli.python, "-m", "langgraph_gcs_saver.cli", "--version").returncode == 0


def imported():
    """Modules of others that the package imports at run time, by the module of ours.

    Aside from `cli` and `telemetry`, which have extras, and `testing`.
    """
    for name in sorted(SOURCES):
        if not name.endswith(".py") or re.match(r"langgraph_gcs_saver/(cli|telemetry|testing)/", name):
            continue
        pending = [ast.parse((ROOT / name).read_bytes())]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            pending += ast.iter_child_nodes(node)
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, module) for module in modules)


def test_what_is_imported_is_declared():
    """Not only what something else happens to bring."""
    declared = re.findall(
        r'^    "([\w-]+)[^"]*",$',
        re.search(
            r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL
        )[1],
        re.MULTILINE,
    )
    brought = {name for name, owners in packages_distributions().items() if {o.lower() for o in owners} & set(declared)}
    tops = {module.partition(".")[0] for _, module in imported()}
    foreign = tops - set(sys.stdlib_module_names) - {"langgraph_gcs_saver"}
    assert foreign, "the package imports others"
    assert foreign - brought == set()


@pytest.mark.soak
def test_the_types_are_seen_by_a_stranger(plain, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from langgraph_gcs_saver import GCSSaver\n"
        'saver = GCSSaver.from_conn_string("file:///nowhere")\n'
        "reveal_type(GCSSaver.pin)\n"
        "GCSSaver(1, 2, 3, 4)\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", plain.python, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "import-untyped" not in done.stdout
    assert 'Revealed type is "def (' in done.stdout
    assert done.returncode == 1, "the wrong arguments are an error"
    assert "program.py:4: error" in done.stdout


CONTRACT = """
from contextlib import closing
import pytest
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.testing.contract import StoreContract

class TestMine(StoreContract):
    @pytest.fixture
    def documents(self, tmp_path):
        with closing(LocalDocuments(tmp_path, timeout=900)) as documents:
            yield documents

    @pytest.fixture
    def blobs(self, tmp_path):
        with closing(LocalBlobs(tmp_path, timeout=900)) as blobs:
            yield blobs
"""


@pytest.mark.soak
def test_the_contract_tests_a_store_of_a_stranger(wheel, tmp_path):
    environment = Installed(tmp_path)
    environment.install(wheel, "pytest", "hypothesis")
    (tmp_path / "test_mine.py").write_text(CONTRACT, "utf-8")
    done = environment.run(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 100


@pytest.mark.soak
def test_the_sdist_installs(sdist, tmp_path):
    """With a backend that is fetched, as pip does it; the store is the one that the wheel makes."""
    environment = Installed(tmp_path)
    environment.install(sdist)
    assert environment.python_says(ROUND_TRIP, f"file://{tmp_path}/store", "hello") == "['hello', '1 so far']"


@pytest.mark.soak
def test_the_demo_runs_from_the_wheel(with_cli, tmp_path):
    done = with_cli.run(with_cli.bin / "langgraph-gcs", "demo", TMPDIR=str(tmp_path))
    assert "killed" in done.stdout.lower()


@pytest.mark.soak
def test_the_oldest_dependencies_serve_the_wheel(wheel, tmp_path):
    environment = Installed(tmp_path)
    environment.install(wheel, lock=ROOT / "requirements-oldest.txt")
    assert environment.python_says(ROUND_TRIP, f"file://{tmp_path}/store", "hello") == "['hello', '1 so far']"
