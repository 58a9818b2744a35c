"""The notebooks run, their committed outputs are what they print, and a stranger can read them."""

from __future__ import annotations

import ast
import base64
import io
import os
import re
import subprocess
import sys

import matplotlib.image
import nbformat
import pytest

from tests.notebooks.execute import IMPERCEPTIBLE, NOTEBOOKS, ROOT, keep_pictures, picture, steady, written

NAMES = [
    "01-quickstart",
    "02-human-in-the-loop",
    "03-time-travel",
    "04-crash-and-recovery",
    "05-what-it-stores",
    "06-side-effects",
    "07-two-workers",
    "08-runs-that-resume",
    "09-four-questions",
    "10-teams-and-sagas",
]
PICTURES = {"03-time-travel": 1, "05-what-it-stores": 3, "09-four-questions": 4}

# Directories of the machine that ran them, and addresses in memory.
TRACES = re.compile(
    r"/(tmp|home|root|Users|private|var|usr|opt|mnt|srv|work)/|[A-Z]:\\\\|site-packages|\b0x[0-9a-f]{6,}"
)


def execute(output, *paths, store=None):
    """What the notebooks give in fresh kernels, in a process of its own: Jupyter's warnings are not ours."""
    options = ["--output", str(output), *(["--store", store] if store else [])]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "LANGGRAPH_GCS_STORE": "file:///not/to/be/used"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebooks", *options, *map(str, paths)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return {path.stem: read(path) for path in output.glob("*.ipynb")}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def drawn(notebook):
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def shape(notebook):
    """Sources, and what each cell gave, but for figures: another version of Python or zstd may change them a little."""
    return [(cell.source, [_shape_of(output) for output in cell.outputs]) for cell in code_cells(notebook)]


def _shape_of(output):
    text = output.text if output.output_type == "stream" else output.data.get("text/plain", "")
    words = " ".join(re.sub(r"\d[\d.,]*", "#", text).split())
    return output.output_type, output.get("name"), sorted(output.get("data", ())), words


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    return execute(tmp_path_factory.mktemp("notebooks"))


@pytest.mark.parametrize("name", NAMES)
def test_it_prints_what_was_committed(name, executed):
    assert shape(executed[name]) == shape(read(NOTEBOOKS / f"{name}.ipynb")), "run: make notebooks"


@pytest.mark.soak
def test_it_prints_the_same_on_the_emulators(tmp_path, firestore_emulator, bucket_name, project_id):
    found = execute(tmp_path, store=f"gs://{bucket_name}/agents?project={project_id}")
    for name in NAMES:
        assert shape(found[name]) == shape(read(NOTEBOOKS / f"{name}.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_complete_and_clean(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    assert written(notebook) == text, "run: make notebooks"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert {output.name for output in outputs(notebook) if output.output_type == "stream"} == {"stdout"}
    assert not TRACES.search(re.sub(r'"image/png": "[^"]*"', "", text))


@pytest.mark.parametrize("name", NAMES)
def test_what_prints_or_draws_has_an_output(name):
    for cell in code_cells(read(NOTEBOOKS / f"{name}.ipynb")):
        # In functions they wait for a call.
        body = [node for node in ast.parse(_runnable(cell.source)).body if not isinstance(node, ast.FunctionDef)]
        called = {ast.unparse(call.func) for node in body for call in ast.walk(node) if isinstance(call, ast.Call)}
        if called & {"print", "show", "draw", "plt.show"}:
            assert cell.outputs, cell.source


def _runnable(source):
    """The source in a form that `ast` parses: cells may await at their top level."""
    try:
        ast.parse(source)
    except SyntaxError:
        return "async def cell():\n" + "\n".join(f"    {line}" for line in source.splitlines())
    return source


@pytest.mark.parametrize("name", NAMES)
def test_pictures_can_be_read(name):
    found = drawn(read(NOTEBOOKS / f"{name}.ipynb"))
    found = [output.data["image/png"] for output in found]
    assert len(found) == PICTURES.get(name, 0)
    for png in found:
        pixels = picture(png)
        height, width, _ = pixels.shape
        assert width >= 800
        assert height >= 200
        assert len(png) < 150_000
        # White ground, dark words, and colors.
        grey = pixels[..., :3].max(axis=2) - pixels[..., :3].min(axis=2)
        assert (pixels[..., :3].min(axis=2) > 0.99).mean() > 0.4
        assert (pixels[..., :3].max(axis=2) < 0.3).sum() > 500
        assert (grey > 0.3).sum() > 500


def test_there_are_no_others_and_all_are_listed():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"({name}.ipynb)" not in text] == []


@pytest.mark.parametrize("page", [*(f"{name}.ipynb" for name in NAMES), "README.md"])
def test_links_lead_somewhere(page):
    path = NOTEBOOKS / page
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert links
    assert [link for link in links if not (NOTEBOOKS / link).exists()] == []


# The runner


def notebook_of(*texts):
    cell = nbformat.v4.new_code_cell("print()", id="some-id", metadata={"execution": {"shell.execute_reply": "now"}})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
    return nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.99.1"}})


def test_random_ids_are_numbered_in_the_order_in_which_they_come():
    one, other = "1f1e5d6a-d72e-6371-8008-fbf696a27ce0", "1f1e5d6a-d707-6046-8007-b7be934bc18e"
    text = written(notebook_of(f"{one} {other} pages-e943deab0e5b.zst", f"{other}"))
    assert "1f000000-0000-6000-8000-000000000001 1f000000-0000-6000-8000-000000000002 pages-0123456789ab.zst" in text
    assert text.count("1f000000-0000-6000-8000-000000000002") == 2
    assert one not in text
    assert other not in text


def test_no_time_version_or_directory_is_written():
    text = written(notebook_of(f"in {ROOT}/notebooks"))
    for trace in ("3.99.1", "shell.execute_reply", "some-id", str(ROOT)):
        assert trace not in text
    assert steady("1,234 bytes in 5 frames", {}) == "1,234 bytes in 5 frames"


def test_only_pictures_that_look_the_same_are_kept():
    before, after = read(NOTEBOOKS / "05-what-it-stores.ipynb"), read(NOTEBOOKS / "05-what-it-stores.ipynb")
    pictures = drawn(after)
    pngs = [output.data["image/png"] for output in pictures]
    # The same pixels in other bytes; one of the size but with a dot more; another picture.
    pictures[0].data["image/png"] = encoded(picture(pngs[0]) * (1 - IMPERCEPTIBLE / 2))
    pixels = picture(pngs[1]).copy()
    pixels[50:53, 50:53, :3] = 0
    dotted = pictures[1].data["image/png"] = encoded(pixels)
    pictures[2].data["image/png"] = pngs[0]
    keep_pictures(before, after)
    assert [output.data["image/png"] for output in pictures] == [pngs[0], dotted, pngs[0]]


def encoded(pixels):
    file = io.BytesIO()
    matplotlib.image.imsave(file, pixels, format="png")
    return base64.b64encode(file.getvalue()).decode()


def test_a_cell_that_fails_is_told_and_leaves_what_was_there(tmp_path):
    path, output = tmp_path / "failing.ipynb", tmp_path / "output"
    cell = nbformat.v4.new_code_cell("import os\nraise LookupError(os.environ['LANGGRAPH_GCS_STORE'])")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    output.mkdir()
    (output / path.name).write_text("what was there")
    with pytest.raises(AssertionError, match=r"LookupError\S*: file:///somewhere"):
        execute(output, path, store="file:///somewhere")
    assert (output / path.name).read_text() == "what was there"
