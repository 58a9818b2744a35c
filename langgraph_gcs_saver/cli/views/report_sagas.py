"""The section of a thread's report about its sagas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from langgraph_gcs_saver.cli.views.html import Child, Html, join, joined, named, tag
from langgraph_gcs_saver.results import SagaInfo, SagaStep

_COLUMNS = ("step", "state", "undo", "epoch")


def sagas(found: Sequence[SagaInfo] | None, link: Callable[[str], Html]) -> Iterator[Html]:
    """Each saga, with its steps and savepoints.

    Args:
        found: The sagas; `None` if a document of one is damaged.
        link: Shows a checkpoint of the root graph, by its id.
    """
    if found is None:
        yield tag("p", "Sagas are not shown, because a document of theirs is damaged: see the findings.", class_="bad")
    for saga in found or ():
        yield tag("h3", "Saga ", named(saga.saga_id), ": ", tag("span", saga.state, class_=_class(saga)))
        if saga.steps:
            head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in _COLUMNS)))
            yield tag("table", head, tag("tbody", *map(_step, saga.steps)))
        else:
            yield tag("p", "It has no steps.", class_="note")
        if saga.savepoints:
            points = (join(named(name), *_at(at, link)) for name, at in saga.savepoints.items())
            yield tag("p", "Savepoints: ", joined(points, ", "))
        if saga.state in ("compensating", "compensated", "stuck"):
            yield tag("p", "It is rolled back to ", _target(saga), ".")


def _at(checkpoint_id: str | None, link: Callable[[str], Html]) -> Iterator[Child]:
    if checkpoint_id is not None:
        yield from (" at ", link(checkpoint_id))


def _class(saga: SagaInfo) -> str | None:
    return "bad" if saga.state == "stuck" else None


def _target(saga: SagaInfo) -> Html:
    return join("its beginning") if saga.target is None else join("the savepoint ", named(saga.target))


def _step(step: SagaStep) -> Html:
    problem = None if step.problem is None else tag("p", named(step.problem), class_="bad")
    undo = join("irreversible") if step.undo is None else join(named(step.undo[0]), f" v{step.undo[1]}")
    cells = (tag("td", one) for one in (step.state, undo, f"{step.epoch}"))
    return tag("tr", tag("th", named(step.name), problem, scope="row"), *cells)
