"""`langgraph-gcs monitoring`: write a dashboard, alerts, and Terraform for a deployment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.views.terminal import (
    CommandError,
    JsonOption,
    StoreOption,
    console,
    plain,
    print_json,
    store_named,
)

_NEXT = """\
Write the region, and other values of your own, to terraform.tfvars there. Then run `terraform init` and `terraform \
plan`. \
docs/guides/monitor-in-production.md says how to use the dashboard and the alerts without Terraform."""


def monitoring(
    *,
    write: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the files. Earlier ones are replaced.")],
    store: StoreOption = None,
    budget: Annotated[
        float, typer.Option(metavar="DOLLARS", help="Alert if requests would cost more in a month, by list prices.")
    ] = 100.0,
    lag: Annotated[
        timedelta,
        typer.Option(
            parser=positive_duration, metavar="TIME", help="Alert if checkpoints become durable later than this."
        ),
    ] = "5s",  # type: ignore[assignment]  # typer parses a default too
    objective: Annotated[
        timedelta,
        typer.Option(parser=positive_duration, metavar="TIME", help="Alert if restoring a thread takes longer."),
    ] = "30s",  # type: ignore[assignment]
    stalled: Annotated[
        timedelta,
        typer.Option(
            parser=positive_duration, metavar="TIME", help="Alert if a thread with a lease stores no step for so long."
        ),
    ] = "10m",  # type: ignore[assignment]
    behind: Annotated[
        timedelta,
        typer.Option(parser=positive_duration, metavar="TIME", help="Alert if a replica is behind by more."),
    ] = "1m",  # type: ignore[assignment]
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A label of the saver, for charts of its own. Several are fine."),
    ] = None,
    names: Annotated[
        Literal["prometheus", "otlp"],
        typer.Option(
            help="How metrics are named in Cloud Monitoring: by telemetry.googleapis.com (otlp), or by Prometheus and "
            "its exporters."
        ),
    ] = "otlp",
    docs: Annotated[
        str | None, typer.Option(metavar="URL", help="Where you read this documentation. Alerts link there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a dashboard, alerts, and Terraform for a store and its jobs.

    No service is called. Alerts are files for Terraform, for gcloud and for Prometheus. With --store, Terraform knows
    the bucket, the database and the project. The files hold no secret. Values of your own in terraform.tfvars stay.

    Example: langgraph-gcs monitoring --write deploy --budget 200 --label agent
    """
    from langgraph_gcs_saver import monitoring as room

    bounds = room.Bounds(
        budget=budget,
        lag=lag.total_seconds(),
        objective=objective.total_seconds(),
        stalled=stalled.total_seconds(),
        behind=behind.total_seconds(),
    )
    try:
        written = room.write(write, store_named(store), bounds=bounds, labels=label or (), names=names, docs=docs)
    except OSError as error:
        raise CommandError(f"the files were not written: {error}") from error
    if as_json:
        print_json({"files": list(map(str, written))})
        return
    for path in written:
        console().print(plain(f"Written: {path}"), soft_wrap=True)
    console().print(plain(_NEXT), soft_wrap=True)
