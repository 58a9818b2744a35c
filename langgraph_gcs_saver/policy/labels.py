"""What a label may be. A saver, and the reader of what another one has stored, hold to the same limits."""

from __future__ import annotations

import re

MOST_LABELS = 10
"""Each label multiplies the series of each metric."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
"""The common part of what BigQuery accepts as the name of a column and Prometheus as that of a label."""

NO_METADATA = re.compile(r"__.*|(thread|checkpoint)_id|checkpoint_(ns|map)|langgraph_.*")
"""Names that LangGraph leaves out of a checkpoint's metadata (its `EXCLUDED_METADATA_KEYS`), such as the thread's."""

MOST_VALUES = 50
"""Values of a label that a process distinguishes. Each value is a series of each metric, and series cost money."""

OTHER = "other"
"""What stands for all further values."""

MOST_CHARACTERS = 100
"""Most characters of a value; the others are cut off."""
