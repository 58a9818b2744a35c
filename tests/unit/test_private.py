"""Each private name of Google's packages that the stores need, on the releases that are installed."""

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage

import langgraph_gcs_saver.stores.google
from langgraph_gcs_saver.errors import StoreError
from langgraph_gcs_saver.stores.google import private

FOLDER = langgraph_gcs_saver.stores.google.__path__[0]
HOST = "127.0.0.1:9"
RULES = ({"action": {"type": "Unheard"}, "condition": {"age": 1}},)


def firestore_client():
    return firestore.Client(project="p", database="d", credentials=AnonymousCredentials())


def storage_client():
    return storage.Client(project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": "http://h"})


@pytest.fixture(autouse=True)
def emulator(monkeypatch):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", HOST)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)


def is_twin(found, given):
    is_same = (found.project, found._database, found._emulator_host) == ("p", "d", HOST)
    return is_same and found is not given and found._credentials is given._credentials


def is_own(found, given):
    is_same = found._credentials is given._credentials and found._connection.API_BASE_URL == "http://h"
    return is_same and found._http is not given._http


def bucket_with_rules():
    found = storage_client().bucket("b")
    found._properties["lifecycle"] = {"rule": list(RULES)}
    return found


USES = {
    "database_id": (firestore_client, lambda client: private.database_id(client) == "d"),
    "database_path": (firestore_client, lambda client: private.database_path(client) == "projects/p/databases/d"),
    "headers": (firestore_client, lambda client: "x-goog-api-client" in dict(private.headers(client))),
    "emulator": (firestore_client, lambda client: private.emulator(client) == HOST),
    "target": (firestore_client, lambda client: private.target(client) == HOST),
    "credentials": (firestore_client, lambda client: isinstance(private.credentials(client), AnonymousCredentials)),
    "channel": (firestore_client, lambda client: callable(private.channel(client).unary_stream)),
    "twin": (firestore_client, lambda client: is_twin(private.twin(client), client)),
    "api_address": (storage_client, lambda client: private.api_address(client) == "http://h"),
    "session": (storage_client, lambda client: callable(private.session(client).mount)),
    "own": (storage_client, lambda client: is_own(private.own(client, None), client)),
    "lifecycle": (bucket_with_rules, lambda bucket: private.lifecycle(bucket) == RULES),
}
"""For each function what it is given, and what must be true of what it gives."""


def is_private(node):
    return isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")


def names(function, context):
    """The private attributes that a function reads of its first argument, or writes."""
    tree = ast.parse(inspect.getsource(inspect.unwrap(function)))
    return sorted({node.attr for node in ast.walk(tree) if is_private(node) and isinstance(node.ctx, context)})


FUNCTIONS = {
    name: found
    for name, found in vars(private).items()
    if inspect.isfunction(found) and found.__module__ == private.__name__ and not name.startswith("_")
}
READ = [(name, attribute) for name, function in FUNCTIONS.items() for attribute in names(function, ast.Load)]


def test_every_function_is_tried():
    assert USES.keys() == FUNCTIONS.keys()
    assert len(READ) > 15


@pytest.mark.parametrize(("function", "name"), READ)
def test_the_installed_release_has_it(function, name):
    """What fails here is a `StoreError` that says which package and release lack which name, and what it is for."""
    make, is_right = USES[function]
    assert is_right(make()), f"{name} of {make().__module__} is not what `private.{function}` takes it for"


class Without:
    """A client of a release that lacks a name."""

    def __init__(self, client, name):
        self._client, self._name = client, name

    def __getattr__(self, name):
        if name == self._name:
            raise AttributeError(f"{type(self._client).__name__!r} object has no attribute {name!r}")
        return getattr(self._client, name)


@pytest.mark.parametrize(("function", "name"), READ)
def test_a_release_without_it_is_named(function, name):
    make, _ = USES[function]
    arguments = (None,) if function == "own" else ()
    with pytest.raises(StoreError) as caught:
        FUNCTIONS[function](Without(make(), name), *arguments)
    package = "google-cloud-firestore" if make is firestore_client else "google-cloud-storage"
    assert f"{package} {version(package)} " in str(caught.value)
    assert f"has no attribute {name!r}" in str(caught.value)
    assert FUNCTIONS[function].__doc__.splitlines()[0] in str(caught.value)


def test_a_parameter_that_is_gone_is_named(monkeypatch):
    given = storage_client()
    monkeypatch.setattr(storage, "Client", lambda *, project, credentials, client_info, client_options: None)
    with pytest.raises(StoreError, match=r"google-cloud-storage .* got an unexpected keyword argument '_http'"):
        private.own(given, None)


RELEASE = tuple(int(part) for part in version("google-cloud-storage").split(".")[:2])
WRITTEN = {
    "_emulator_host": lambda: hasattr(firestore_client(), "_emulator_host"),
    "ALLOW_AUTO_SWITCH_TO_MTLS_URL": lambda: hasattr(storage_client()._connection, "ALLOW_AUTO_SWITCH_TO_MTLS_URL"),
    "_bucket_metadata_cache": lambda: hasattr(storage_client(), "_bucket_metadata_cache") or RELEASE < (3, 17),
}
"""What is overwritten, and so never missed."""


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_overwritten_is_there(name):
    """A release that lacks it would get a new attribute that nothing reads."""
    assert WRITTEN[name](), f"google-cloud-firestore {firestore.__version__} or google-cloud-storage {RELEASE}: {name}"


def test_nothing_else_is_overwritten():
    found = set()
    for function in FUNCTIONS.values():
        tree = ast.parse(inspect.getsource(inspect.unwrap(function)))
        found |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
    assert found == WRITTEN.keys()


def test_no_other_module_reads_a_private_name():
    """The linter finds what is not excused from it, and `private.py` alone is excused as a whole."""
    modules = sorted(Path(FOLDER).glob("*.py"))
    assert len(modules) > 4
    excused = {line.strip() for path in modules for line in path.read_text().splitlines() if "SLF001" in line}
    assert not [line for line in excused if "FirestoreDocuments._" not in line], "those are our own"
