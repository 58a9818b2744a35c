"""Files that watch a store: a dashboard, alerts, and Terraform for a deployment. No service is called."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from langgraph_gcs_saver.address import GoogleAddress, parse
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.monitoring import policies
from langgraph_gcs_saver.monitoring.alerts import Bounds, alerts
from langgraph_gcs_saver.monitoring.dashboard import dashboard
from langgraph_gcs_saver.monitoring.promql import NAMES, Names, dialect
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.provisioning import lifecycle_rules, unindexed, write_files

__all__ = ["NAMES", "Bounds", "Names", "files", "write"]

DEFAULTS = Bounds()


def files(
    conn_string: str | None = None,
    *,
    bounds: Bounds = DEFAULTS,
    labels: Sequence[str] = (),
    names: Names = "otlp",
    docs: str | None = None,
) -> dict[str, str]:
    """The names and texts of all files.

    - `dashboard.json`, for `gcloud monitoring dashboards create --config-from-file`;
    - `alerts/NAME.json`, each for `gcloud monitoring policies create --policy-from-file`;
    - `rules.yaml` for Prometheus, and `managed-rules.yaml` for Managed Service for Prometheus: the same alerts;
    - `*.tf` and `*.tf.json`: Terraform for bucket, database, accounts, jobs, and for the dashboard and alerts above;
    - `store.auto.tfvars.json`: the values of Terraform's variables that the connection string says.

    Args:
        conn_string: The store, as `gs://…`. Without it, you have to give Terraform the bucket and the project.
        bounds: What the alerts compare with.
        labels: The `labels` of the saver. Each gets a section of the dashboard.
        names: How metrics come to Cloud Monitoring: see `monitoring.promql.Names`. The rules files always have those of
            Prometheus.
        docs: Where your team reads this documentation, such as `https://docs.example.com/langgraph-gcs`. Alerts link
            there.

    Raises:
        InvalidURIError: The connection string names no store.
        InvalidInputError: The store is not on Google Cloud, or `names` is none of `NAMES`.
        InvalidOptionError: `labels` are not what the option of a saver takes.
    """
    Options(labels=tuple(labels))
    spoken = dialect(names)
    ruled = alerts(bounds, dialect("prometheus"))
    found = {"dashboard.json": _json(dashboard(spoken, labels))}
    found |= {f"alerts/{alert.name}.json": _json(policies.policy(alert, docs)) for alert in alerts(bounds, spoken)}
    found |= {"rules.yaml": policies.rules(ruled, docs), "managed-rules.yaml": policies.managed_rules(ruled, docs)}
    folder = resources(__name__) / "terraform"
    found |= {one.name: one.read_text("utf-8") for one in sorted(folder.iterdir(), key=lambda one: one.name)}
    found["settings.tf.json"] = _json({"locals": _settings()})
    if conn_string is not None:
        found["store.auto.tfvars.json"] = _json(_variables(conn_string))
    return found


def _settings() -> dict[str, Any]:
    """The settings of `setup(platform=True)`. Terraform adds the prefix, because only its variables know it."""
    return {
        "lifecycle_rules": [
            {
                "type": rule["action"]["type"],
                "storage_class": rule["action"].get("storageClass"),
                "age": rule["condition"]["age"],
                "matches_storage_class": rule["condition"].get("matchesStorageClass", []),
            }
            for rule in lifecycle_rules("")
        ],
        "unindexed": [{"collection": collection, "field": field} for collection, field in unindexed()],
    }


def _variables(conn_string: str) -> dict[str, str]:
    address = parse(conn_string)
    if not isinstance(address, GoogleAddress):
        raise InvalidInputError(
            "These files are for a store on Google Cloud, and this one is embedded. Give a connection string "
            "gs://BUCKET/PREFIX?project=PROJECT&database=DATABASE, or none."
        )
    root = GoogleAddress(bucket=address.bucket, prefix=address.prefix).root
    found = {"bucket": address.bucket, "prefix": address.prefix, "database": address.database}
    found |= {"project": address.project} if address.project is not None else {}
    return found | ({"root": address.root or ""} if address.root != root else {})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write(
    directory: str | os.PathLike[str],
    conn_string: str | None = None,
    *,
    bounds: Bounds = DEFAULTS,
    labels: Sequence[str] = (),
    names: Names = "otlp",
    docs: str | None = None,
) -> tuple[Path, ...]:
    """Write the files of `files`, and replace earlier ones. No service is called.

    Files under other names stay, such as `terraform.tfvars` with values of your own.

    Args:
        directory: Where to write them; made if it is missing.
        conn_string: See `files`.
        bounds: See `files`.
        labels: See `files`.
        names: See `files`.
        docs: See `files`.

    Returns:
        The files.

    Raises:
        InvalidURIError: The connection string names no store.
        InvalidInputError: The store is not on Google Cloud, or `names` is none of `NAMES`.
        InvalidOptionError: `labels` are not what the option of a saver takes.
        OSError: A file cannot be written.
    """
    made = files(conn_string, bounds=bounds, labels=labels, names=names, docs=docs)
    return write_files(directory, made.items())
