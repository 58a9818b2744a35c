"""The files that are written: valid for Google's APIs and for Prometheus, and nothing in them is this machine's."""

import json
import re
from dataclasses import fields

import pytest
import yaml

from langgraph_gcs_saver import monitoring
from langgraph_gcs_saver.cli.durations import duration
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError, InvalidURIError
from langgraph_gcs_saver.monitoring.alerts import alerts
from langgraph_gcs_saver.monitoring.promql import dialect, span
from langgraph_gcs_saver.telemetry.metrics import METRICS
from tests.docs.alerts import metrics_of, table
from tests.docs.fences import ROOT
from tests.monitoring.promtool import check
from tests.monitoring.schemas import wrong_messages

STORE = "gs://my-bucket/my%20agents?project=my-project&database=agents"
DOCS = "https://docs.example.com/saver/"


def messages(files):
    """The files that are messages of Cloud Monitoring, with their kinds."""
    return {
        name: ("policy" if name.startswith("alerts/") else "dashboard", json.loads(text))
        for name, text in files.items()
        if name == "dashboard.json" or name.startswith("alerts/")
    }


def test_dashboards_and_policies_are_valid():
    """And a mistake in one is noticed."""
    _, dashboard = messages(monitoring.files())["dashboard.json"]
    dashboard["mosaicLayout"]["tiles"][1]["widget"]["xyChart"]["dataSets"][0]["plotType"] = "CURVE"
    _, policy = messages(monitoring.files())["alerts/damage.json"]
    policy["conditions"][0]["conditionPrometheusQueryLanguage"]["expr"] = "1"
    found = {"a wrong dashboard": ("dashboard", dashboard), "a wrong policy": ("policy", policy)}
    for names in monitoring.NAMES:
        made = messages(monitoring.files(STORE, labels=["agent", "app"], names=names, docs=DOCS))
        assert len(made) == 1 + 12
        found |= {f"{names}/{name}": message for name, message in made.items()}
    wrong = wrong_messages(found)
    assert wrong.keys() == {"a wrong dashboard", "a wrong policy"}
    assert "expr" in wrong["a wrong policy"]


@pytest.mark.parametrize("names", monitoring.NAMES)
def test_prometheus_accepts_every_expression(names, tmp_path):
    """Those of Cloud Monitoring too, as rules that record. A quoted label came with Prometheus 3 only."""
    files = monitoring.files(labels=["agent"], names=names)
    assert "12 rules found" in check(files["rules.yaml"], tmp_path)
    charts = [
        one["timeSeriesQuery"]["prometheusQuery"]
        for tile in json.loads(files["dashboard.json"])["mosaicLayout"]["tiles"]
        for one in tile["widget"].get("xyChart", {}).get("dataSets", ())
    ]
    assert len(charts) > 30
    expressions = [*charts, *(one.expression for one in alerts(monitoring.Bounds(), dialect(names)))]
    legacy = [re.sub(r'"(label\.\w+|error\.type)"', lambda one: one[1].replace(".", "_"), each) for each in expressions]
    rules = [{"record": f"found:{number}", "expr": one} for number, one in enumerate(legacy)]
    assert f"{len(rules)} rules found" in check(json.dumps({"groups": [{"name": "g", "rules": rules}]}), tmp_path)


def test_no_name_of_a_metric_has_its_unit():
    """Exporters would differ: some add the unit to a name only if the name does not have it."""
    units = {"s": "seconds", "By": "bytes"}
    assert [one.name for one in METRICS if units.get(one.unit) in re.split(r"[._]", one.name)] == []


def test_the_resource_of_managed_prometheus_has_the_same_rules():
    files = monitoring.files()
    managed = yaml.safe_load(files["managed-rules.yaml"])
    assert (managed["apiVersion"], managed["kind"]) == ("monitoring.googleapis.com/v1", "Rules")
    assert managed["spec"] == yaml.safe_load(files["rules.yaml"])
    assert [one["expr"] for one in managed["spec"]["groups"][0]["rules"]] == [
        one.expression for one in alerts(monitoring.Bounds(), dialect("prometheus"))
    ]


@pytest.mark.parametrize("names", monitoring.NAMES)
def test_every_metric_is_on_the_dashboard(names):
    text = monitoring.files(names=names)["dashboard.json"]
    shown = {one.full_name if names == "otlp" else one.prometheus for one in METRICS}
    assert {name for name in shown if not re.search(rf"\b{re.escape(name)}(_sum|_count|_bucket)?\b", text)} == set()


def test_tiles_do_not_overlap():
    layout = json.loads(monitoring.files(labels=["agent"])["dashboard.json"])["mosaicLayout"]
    taken = set()
    for tile in layout["tiles"]:
        cells = {
            (tile.get("xPos", 0) + x, tile["yPos"] + y) for x in range(tile["width"]) for y in range(tile["height"])
        }
        assert not cells & taken
        assert all(x < layout["columns"] for x, _ in cells)
        taken |= cells


def test_links_lead_to_the_alerts():
    with_docs, without = (messages(monitoring.files(docs=docs))["alerts/lag.json"][1] for docs in (DOCS, None))
    url = "https://docs.example.com/saver/guides/monitor-in-production/#alerts"
    assert [one["url"] for one in with_docs["documentation"]["links"]] == [url]
    assert "links" not in without["documentation"]
    assert "docs/guides/monitor-in-production.md#alerts" in without["documentation"]["content"]
    rules = [monitoring.files(docs=docs)["rules.yaml"].count(f'runbook_url: "{url}"') for docs in (DOCS, None)]
    assert rules == [len(alerts(monitoring.Bounds(), dialect("prometheus"))), 0]
    assert "runbook_url" not in monitoring.files()["rules.yaml"], "a path is no URL"


def test_the_guide_has_the_table_of_alerts():
    page = (ROOT / "docs/guides/monitor-in-production.md").read_text(encoding="utf-8")
    section = page.partition("\n## Alerts\n\n")[2]
    assert section.startswith(table() + "\n"), "replace the table by what python -m tests.docs.alerts prints"
    assert sum(len(metrics_of(one)) for one in alerts(monitoring.Bounds(), dialect("otlp"))) > 10


def test_the_guide_has_the_files_and_the_defaults():
    page = (ROOT / "docs/guides/monitor-in-production.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.*-]+\.(?:json|yaml|tf))`", page))
    files = monitoring.files(STORE)
    assert {name for name in files if "/" not in name and not name.endswith(".tf")} <= named
    defaults = dict(re.findall(r"(?m)^\| `--(\w+)` \| (\w+) \|", page))
    assert {
        name: duration(f"{text}s" if text.isdigit() else text).total_seconds() for name, text in defaults.items()
    } == {field.name: getattr(monitoring.Bounds(), field.name) for field in fields(monitoring.Bounds)}


def test_the_store_is_in_variables():
    found = {
        store: json.loads(monitoring.files(store)["store.auto.tfvars.json"])
        for store in (STORE, "gs://my-bucket", "gs://my-bucket/x?root=a/b")
    }
    assert found == {
        STORE: {"bucket": "my-bucket", "prefix": "my agents", "database": "agents", "project": "my-project"},
        "gs://my-bucket": {"bucket": "my-bucket", "prefix": "", "database": "(default)"},
        "gs://my-bucket/x?root=a/b": {"bucket": "my-bucket", "prefix": "x", "database": "(default)", "root": "a/b"},
    }
    assert "store.auto.tfvars.json" not in monitoring.files()


def test_bounds_and_labels_arrive():
    files = monitoring.files(
        bounds=monitoring.Bounds(budget=12.5, lag=0.25, objective=90, stalled=120), labels=["agent", "app"]
    )
    queries = {
        name.removeprefix("alerts/").removesuffix(".json"): message["conditions"][0]["conditionPrometheusQueryLanguage"]
        for name, (kind, message) in messages(files).items()
        if kind == "policy"
    }
    ends = {"cost": "> 12.5", "lag": "> 0.25", "restore": "> 90", "stalled": "> 120"}
    assert {name: queries[name]["query"].endswith(end) for name, end in ends.items()} == dict.fromkeys(ends, True)
    assert r"by (\"label.agent\")" in files["dashboard.json"]
    assert "by (label_agent)" in monitoring.files(labels=["agent"], names="prometheus")["dashboard.json"]
    assert "By app" in files["dashboard.json"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"conn_string": "https://example.com"}, InvalidURIError),
        ({"conn_string": "memory:"}, InvalidInputError),
        ({"names": "statsd"}, InvalidInputError),
        ({"labels": ["a-b"]}, InvalidOptionError),
    ],
)
def test_what_is_not_valid(options, error):
    with pytest.raises(error):
        monitoring.files(**options)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5"])
def test_bounds_are_positive_numbers(value):
    with pytest.raises(InvalidInputError, match="lag"):
        monitoring.Bounds(lag=value)


def test_a_lag_is_less_than_what_the_buckets_tell():
    assert monitoring.Bounds(lag=59).lag == 59
    with pytest.raises(InvalidInputError, match="less than 60"):
        monitoring.Bounds(lag=60)


def test_lengths_of_time():
    assert [span(one) for one in (1, 60, 90, 600, 3600, 86_400, 604_800, 691_200)] == [
        *("1s", "1m", "90s", "10m", "1h", "1d", "1w", "8d"),
    ]
