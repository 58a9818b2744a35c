"""Schemas of Google's: of Terraform's provider, and of Cloud Monitoring's messages. They are in .venv-services."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from typing import Any

from tests.docs.fences import ROOT
from tests.patience import PATIENCE

SERVICES = ROOT / ".venv-services"
_PACKAGE = "@cdktf/provider-google"

_STRICT = """\
import json, sys
from google.cloud import monitoring_dashboard_v1, monitoring_v3
from google.protobuf import json_format

messages = {"dashboard": monitoring_dashboard_v1.Dashboard, "policy": monitoring_v3.AlertPolicy}
wrong = {}
for name, (kind, content) in json.load(sys.stdin).items():
    try:
        json_format.ParseDict(content, messages[kind].pb()())
    except json_format.ParseError as error:
        wrong[name] = str(error)
json.dump(wrong, sys.stdout)
"""


def wrong_messages(files: dict[str, tuple[str, Any]]) -> dict[str, str]:
    """Parse JSON strictly, as messages of Cloud Monitoring; return what is wrong, by file.

    Args:
        files: By name, `dashboard` or `policy`, and the content.
    """
    ended = subprocess.run(
        [SERVICES / "bin/python", "-c", _STRICT],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout)
    return found


class Provider:
    """The resources of Terraform's provider for Google Cloud, as its bindings describe them.

    A resource `google_storage_bucket` has a struct `storageBucket.StorageBucketConfig` of attributes and blocks, and a
    class `storageBucket.StorageBucket` of what can be referred to.
    """

    def __init__(self) -> None:
        (archive,) = SERVICES.glob("lib/python3*/site-packages/cdktf_cdktf_provider_google/_jsii/*.tgz")
        with tarfile.open(archive) as files:
            assembly = files.extractfile("package/.jsii")
            assert assembly is not None
            self._types: dict[str, dict[str, Any]] = json.load(assembly)["types"]

    def _of(self, resource: str, ending: str) -> dict[str, Any] | None:
        name = "".join(word.capitalize() for word in resource.removeprefix("google_").split("_"))
        return self._types.get(f"{_PACKAGE}.{name[0].lower()}{name[1:]}.{name}{ending}")

    def refers(self, resource: str, attribute: str) -> bool:
        """Whether an expression can refer to an attribute of a resource."""
        found = self._of(resource, "")
        return found is not None and any(_snake(one["name"]) == attribute for one in found["properties"])

    def wrong(self, resource: str, body: dict[str, Any], variables: dict[str, str]) -> list[str]:
        """What is wrong with a resource.

        Args:
            resource: Its type.
            body: What `hcl2` makes of it.
            variables: Types of the variables, by name.
        """
        config = self._of(resource, "Config")
        return [f"{resource} is no resource"] if config is None else self._block(resource, config, body, variables)

    def _block(self, place: str, struct: dict[str, Any], body: dict[str, Any], variables: dict[str, str]) -> list[str]:
        allowed = {_snake(one["name"]): one for one in struct.get("properties", ())}
        items = {key: value for key, value in body.items() if key not in _META and not key.startswith("__")}
        for dynamic in body.get("dynamic", ()):
            for name, block in dynamic.items():
                items.setdefault(json.loads(name), []).extend(block["content"])
        wrong = [
            f"{place} lacks {name}" for name, one in allowed.items() if not one.get("optional") and name not in items
        ]
        for name, value in items.items():
            if name not in allowed:
                wrong.append(f"{place} has no {name}")
                continue
            inner, kind = self._type(allowed[name]["type"])
            is_block = isinstance(value, list) and all(isinstance(one, dict) and "__is_block__" in one for one in value)
            if is_block != (inner is not None):
                wrong.append(f"{place}.{name} is {'no' if is_block else 'a'} block")
            elif inner is not None:
                wrong += [line for one in value for line in self._block(f"{place}.{name}", inner, one, variables)]
            elif not _fits(value, kind, variables):
                wrong.append(f"{place}.{name} is no {kind}")
        return wrong

    def _type(self, declared: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """The struct of a block, or the kind of an attribute."""
        if "union" in declared:
            types = [one for one in declared["union"]["types"] if one.get("fqn") != "cdktf.IResolvable"]
            declared = types[0]
        if "fqn" in declared:
            return self._types[declared["fqn"]], ""
        if "collection" in declared:
            inner, _ = self._type(declared["collection"]["elementtype"])
            return inner, {"array": "list", "map": "map"}[declared["collection"]["kind"]]
        return None, declared["primitive"]


_META = {"for_each", "count", "depends_on", "lifecycle", "provider", "dynamic"}
"""What every resource and dynamic block may have."""


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)


def _fits(value: Any, kind: str, variables: dict[str, str]) -> bool:
    """Whether a value can be of a kind; of an expression, only a variable's type is known."""
    if isinstance(value, str) and value.startswith("${"):
        found = re.fullmatch(r"\$\{var\.(\w+)\}", value)
        return found is None or variables.get(found[1], "").split("(")[0] == kind.replace("boolean", "bool")
    if isinstance(value, str):
        return kind == "string"
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return kind == "number"
    return kind == ("list" if isinstance(value, list) else "map")
