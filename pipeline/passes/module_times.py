"""What a device takes by the modules that are quantized, to third order: neighbours share their conversions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import inf

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.breakdown import owner_of, rounded_values
from edgewright.pipeline.passes.graph import aten
from edgewright.pipeline.passes.layer_weights import WEIGHTS
from edgewright.pipeline.program import Program

LAYERS = frozenset({*WEIGHTS, aten.matmul.default, aten.bmm.default, aten.mm.default})
SMALLEST_MS = 1e-9
Places = tuple[int, ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModuleTimes:
    """Milliseconds by the places of the quantized modules: `none`, and what sets of them add.

    Args:
        terms: what a set adds beyond all that its parts add: each module, and two and three that read each other's
            values (between them, conversions fall away).
    """

    count: int
    none: float = 0.0
    terms: Mapping[Places, float] = field(default_factory=dict)

    def of(self, chosen: Collection[int]) -> float:
        return self.none + sum(added for places, added in self.terms.items() if set(places) <= set(chosen))


def find_times(
    quantized: Program, floats: Mapping[str, Tensor], modules: Sequence[str], measure: Callable[[Program], float]
) -> ModuleTimes:
    """Measure with no module quantized, with each alone, and with neighbours together.

    Args:
        quantized: with all of `modules` quantized; floats: by layer, the weight that it had before.
        measure: milliseconds of a program.
    """
    owners = {node.name: owner_of(node, modules) for node in quantized.graph.nodes if node.op == "call_function"}

    def time(places: Places) -> float:
        return measure(_keep(quantized, floats, owners, {modules[place] for place in places}))

    times = ModuleTimes(len(modules), time(()))
    terms: dict[Places, float] = {}
    for places in _together(quantized, owners, modules):
        added = time(places) - replace(times, terms=terms).of(places)
        if abs(added) > SMALLEST_MS:
            terms[places] = added
    return replace(times, terms=terms)


def least_error(
    errors: Sequence[float],
    times: ModuleTimes,
    limit: float,
    saved: Sequence[float] = (),
    least_saved: float = -inf,
) -> frozenset[int] | None:
    """The places of the modules to quantize: those with the least sum of errors within the limits.

    Args:
        limit: in ms. least_saved: bytes; saved: by module.
    Returns:
        None where no set of modules is that fast, or saves as much.
    """
    took = np.array(list(times.terms.values()))
    joint = np.zeros(len(took))
    rows = [(np.concatenate([np.zeros(times.count), took]), limit - times.none)] if limit < inf else []
    if least_saved > -inf:
        rows.append((np.concatenate([-np.asarray(saved, dtype=np.float64), joint]), -least_saved))
    return _solve(np.concatenate([np.asarray(errors, dtype=np.float64), joint]), times, rows)


def fastest(times: ModuleTimes) -> frozenset[int]:
    """The places of the modules to quantize for the least time."""
    found = _solve(np.array([*np.zeros(times.count), *times.terms.values()]), times, [])
    assert found is not None, "nothing is asked of it"
    return found


def _solve(cost: Floats, times: ModuleTimes, rows: Sequence[tuple[Floats, float]]) -> frozenset[int] | None:
    """The least cost of x and y by HiGHS: x_i says that module i is quantized, y_S that all of a set S are.

    Args:
        rows: (coefficients of x and y, what their sum may be at most).
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    constraints = [LinearConstraint(row / _largest(row), -np.inf, most / _largest(row)) for row, most in rows]
    both = np.zeros((2 * len(times.terms), len(cost)))
    most = np.zeros(len(both))
    for place, members in enumerate(times.terms):  # sum of x - (n - 1) <= y <= sum of x / n
        both[2 * place, [*members, times.count + place]] = [*[1.0] * len(members), -1.0]
        both[2 * place + 1, [*members, times.count + place]] = [*[-1.0] * len(members), float(len(members))]
        most[2 * place] = len(members) - 1
    if times.terms:
        constraints.append(LinearConstraint(both, -np.inf, most))
    solved = milp(cost / _largest(cost), constraints=constraints, integrality=np.ones(len(cost)), bounds=Bounds(0, 1))
    return None if solved.x is None else frozenset(place for place in range(times.count) if solved.x[place] > 0.5)


def _largest(values: Floats) -> float:
    """To divide by: the solver works with numbers near 1."""
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _together(program: Program, owners: Mapping[str, str | None], modules: Sequence[str]) -> Iterator[Places]:
    """Each module, then those that share a value: two, then three."""
    places = {module: place for place, module in enumerate(modules)}
    near: dict[int, set[int]] = {place: set() for place in range(len(modules))}
    for node in program.graph.nodes:
        for source in node.all_input_nodes:
            one, other = owners.get(source.name), owners.get(node.name)
            if one is not None and other is not None and one != other:
                near[places[one]].add(places[other])
                near[places[other]].add(places[one])
    yield from ((place,) for place in near)
    yield from sorted({(min(one, other), max(one, other)) for one in near for other in near[one]})
    threes = (sorted((one, *others)) for one in near for others in combinations(near[one], 2))
    yield from sorted({(one, two, three) for one, two, three in threes})


def _keep(
    quantized: Program, floats: Mapping[str, Tensor], owners: Mapping[str, str | None], kept: Collection[str]
) -> Program:
    """The program with `kept` modules quantized and no others, as far as that shows in the kinds of its operations.

    A value stays rounded where a layer of these modules reads it, or where they compute it in integers.
    """
    work = quantized.clone()
    for node, value in list(rounded_values(work)):
        is_read = any(user.target in LAYERS and owners[user.name] in kept for user in node.users)
        if not is_read and not _is_integer(value, owners, kept):
            node.replace_all_uses_with(value)
    for node in list(work.graph.nodes):
        if node.target in WEIGHTS and node.name in floats and owners[node.name] not in kept:
            name = f"{node.name}_float"
            work.module.register_buffer(name, floats[node.name])
            with work.graph.inserting_before(node):
                weight = work.graph.get_attr(name)
            weight.meta["val"] = floats[node.name]
            node.update_arg(WEIGHTS[node.target][0], weight)
    work.erase_dead()
    return work


def _is_integer(value: Node, owners: Mapping[str, str | None], kept: Collection[str]) -> bool:
    """Whether these modules compute a value in integers: what its layer reads, or it is made of, is still rounded."""
    if value.op != "call_function" or owners[value.name] not in kept:
        return False
    source = value
    while source.target not in LAYERS and len(source.all_input_nodes) == 1 and _is_plain(source.all_input_nodes[0]):
        source = source.all_input_nodes[0]
    data = [read for read in source.all_input_nodes if read.op != "get_attr"]
    return bool(data) and all("dequantize" in str(read.target) for read in data)


def _is_plain(node: Node) -> bool:
    return node.op == "call_function" and "dequantize" not in str(node.target)
