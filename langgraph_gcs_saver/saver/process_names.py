"""Names of processes: for people, and for other processes, which find out by it that one has ended.

A process id alone does not show that: it is used again, and containers count their own. The name also has the machine's
boot, the container, and the time when the process began. Only Linux has all of these. Elsewhere a name says nothing.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.flows.fences import MAX_OWNER
from langgraph_gcs_saver.saver import configs

_PREFIX = "linux"

_PID = re.compile(r"[0-9]{1,10}\Z")


def name_for_people() -> str:
    """Host, process and random digits: another name at each call."""
    # As far as the host is text that can be stored, and leaves room for the rest.
    host = socket.gethostname().encode(errors="replace").decode()[:100]
    return f"{host}/{os.getpid()}/{secrets.token_hex(4)}"


def own_name() -> str:
    """A name by which `is_gone` knows this process, another one at each call."""
    pid = os.getpid()
    machine, began = _machine(), _began(pid)
    if machine is None or began is None:
        return name_for_people()
    return f"{_PREFIX}:{machine}:{pid}:{began}:{secrets.token_hex(8)}"


def check_owner(owner: object) -> None:
    """Check a name that a user gives.

    Raises:
        InvalidInputError: It is not text of 1 to 200 characters, or cannot be stored.
    """
    configs.check_type("owner", owner, str)
    if not isinstance(owner, str) or not 0 < len(owner) <= MAX_OWNER:
        raise InvalidInputError(f"owner must have 1 to {MAX_OWNER} characters.")
    configs.check_unicode("The owner", owner)


def is_gone(name: str) -> bool:
    """Whether the process with this name has certainly ended. False if this machine cannot know."""
    parts = name.split(":")
    if len(parts) != 6 or parts[0] != _PREFIX or _PID.match(parts[3]) is None:
        return False
    machine = _machine()
    return machine is not None and machine == f"{parts[1]}:{parts[2]}" and _began(int(parts[3])) != parts[4]


def _machine() -> str | None:
    """What all processes have in common that see each other by the same ids; `None` if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except (OSError, ValueError):
        return None
    return f"{boot}:{str(space).removeprefix('pid:[').removesuffix(']')}"


def _began(pid: int) -> str | None:
    """When a process began, in the system's ticks; `None` if there is none with this id, or it has ended."""
    try:
        # The name of the program comes second, in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
