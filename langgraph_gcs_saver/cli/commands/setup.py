"""`langgraph-gcs setup`: create what a store needs, and prove that it works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    console,
    open_admin,
    plain,
    print_json,
    progress,
)
from langgraph_gcs_saver.errors import StoreError


def setup(
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    location: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Where to create the bucket, such as europe-west1.")
    ] = None,
    platform: Annotated[
        bool,
        typer.Option(
            "--platform",
            help="Also set lifecycle rules (Nearline storage after 30 days) and exempt large fields from Firestore's "
            "indexes. Settings that others made stay.",
        ),
    ] = False,
    write_settings: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the same settings to files there, to apply yourself.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the bucket if it is missing, and check the store.

    It writes, reads and deletes documents and objects. You can repeat it. Standard error shows what these credentials
    may not do, and what endangers the store. With --platform, the exit code is 7 if something could not be set.

    Example: langgraph-gcs setup --platform --location europe-west1
    """
    with open_admin(store, cipher, may_create=True) as saver:
        try:
            with progress("setting up"):
                report = saver.setup(location=location, platform=platform, write_settings=write_settings)
        except StoreError:
            raise  # Some are also an OSError.
        except OSError as error:
            raise CommandError(f"the settings were not written: {error}") from error
    files = [] if write_settings is None else [str(write_settings / name) for name in report.settings]
    if as_json:
        print_json({"done": report.done, "missing": report.missing, "warnings": report.warnings, "files": files})
    else:
        for line in report.done:
            console().print(plain(line), soft_wrap=True)
        for file in files:
            console().print(plain(f"Written: {file}"), soft_wrap=True)
        if write_settings is not None and not files:
            console().print(plain("This store has no settings to write."))
    if platform and report.missing:
        raise typer.Exit(StoreError.exit_code)
