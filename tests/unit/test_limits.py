"""Numbers that the services decide, in one place; pages, which we choose, say what is paged."""

import ast
import re
from pathlib import Path

import langgraph_gcs_saver
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.flows import copy, writes
from langgraph_gcs_saver.format import filters, keys, manifest
from tests.emulators import storage_server

ROOT = Path(langgraph_gcs_saver.__file__).parent
SOURCES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
NAMES = [name for name in vars(limits) if name.isupper()]


def constants(source):
    """The names that a module gives to numbers, at its top."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            yield from (name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))


def test_each_limit_has_its_link_and_is_used():
    tree = ast.parse(SOURCES[Path("engine/limits.py")]).body
    texts = [node.value.value for node in tree[1:] if isinstance(node, ast.Expr)]
    assert len(texts) == len(NAMES) > 5
    assert all("(https://" in text for text in texts)
    used = {name for name in NAMES for source in SOURCES.values() if re.search(rf"\blimits\.{name}\b", source)}
    assert used == set(NAMES)


def test_no_page_or_batch_without_a_name():
    """Nine modules had a `PAGE`, which meant six numbers of five things."""
    vague = re.compile(r"_?(MAX_)?(PAGE|BATCH|(BLOB|DOCS)_BATCH)")
    found = [
        (str(path), name) for path, source in SOURCES.items() for name in constants(source) if vague.fullmatch(name)
    ]
    assert found == []


def test_no_other_module_has_a_limit_of_its_own():
    others = {
        str(path): set(constants(source)) & set(NAMES) for path, source in SOURCES.items() if path.name != "limits.py"
    }
    # What a commit of copies may have is ours, and less than the services allow.
    assert {path: names for path, names in others.items() if names} == {"flows/copy.py": {"COMMIT_BYTES"}}


def test_what_we_choose_fits_what_the_services_allow():
    assert manifest.INNER_BYTES < manifest.PAYLOAD_BYTES < limits.DOCUMENT_BYTES - 4 * keys.MAX_ENCODED
    assert max(writes.INLINE_BYTES, filters.MAX_BYTES) < limits.DOCUMENT_BYTES
    assert limits.DOCUMENT_BYTES < copy.COMMIT_BYTES < limits.EMULATOR_REQUEST_BYTES < limits.COMMIT_BYTES
    assert 2 * keys.MAX_CHECKPOINT_ID + 2 * keys.MAX_ENCODED < limits.SEGMENT_BYTES < limits.NAME_BYTES
    assert 4 * keys.MAX_ENCODED < limits.OBJECT_NAME_BYTES
    assert 3 * limits.COMMIT_WRITES + 3 < 500


def test_the_emulator_keeps_to_the_same():
    """It was written from the services' documentation, not from the library."""
    assert (storage_server.MAX_PAGE, storage_server.MAX_BATCH) == (limits.LIST_OBJECTS, limits.BATCH_CALLS)
