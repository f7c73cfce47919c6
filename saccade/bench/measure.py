"""One case: everyone compared, then timed in turns, beside the floor."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch

from .contenders import BASELINE, Contender
from .floors import Floor, Speeds, count_touched_rows, floor, measure_speeds
from .op_cases import Inputs, OpCase, build_inputs
from .timing import Call, Spread, Turn, cpu_turn, cuda_turn, speedup, spread, take_turns
from .verify import Differences, Expected

# On a GPU, copies of the inputs that together are several times as large as its cache.
_BYTES_OF_COPIES = 256 * 1024**2
_FEWEST_COPIES, _MOST_COPIES = 2, 32
# With fewer queries, launching a GPU's kernels takes as long as they do: graphs are replayed.
_FEWEST_QUERIES_WITHOUT_GRAPH = 2000

FORWARD, BOTH = "forward", "forward + backward"


@dataclass(frozen=True)
class Result:
    """One contender in one direction."""

    contender: str
    direction: str
    difference: float | None
    """From grid_sample, by its norm: of the output, or the largest of the gradients; None if it is
    not finite."""
    problem: str | None
    """Why there is no figure."""
    seconds: list[float]
    """Of every round."""
    time: Spread | None
    speedup: Spread | None
    """How many times as fast as grid_sample, within each round; of all but grid_sample."""
    fused_speedup: Spread | None
    """Of a fused form: how many times as fast as softmax, locations and the plain form."""
    floor: Floor
    floor_share: float | None
    """Floor by median time; 1 would be perfect."""
    graph: bool
    """Whether a CUDA graph was replayed."""


@dataclass(frozen=True)
class CaseTimes:
    """Everyone on one case."""

    case: OpCase
    dtype: str
    num_copies: int
    """Of the inputs; calls take them in turn."""
    touched_rows: int
    """Rows of value that any sample reads."""
    speeds: dict[str, Speeds]
    """By direction."""
    results: list[Result]


def measure_times(
    case: OpCase,
    contenders: Sequence[Contender],
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    advance: Callable[[str], None],
) -> CaseTimes:
    """Compare, then time, grid_sample and the ``contenders``.

    ``advance`` is told what is being done, for people who wait.
    """
    advance("inputs")
    inputs = build_inputs(case, dtype, device)
    touched_rows = count_touched_rows(case.shape, inputs)
    advance("the machine's speeds")
    speeds = {
        direction: measure_speeds(case.shape, inputs, touched_rows, direction == BOTH)
        for direction in (FORWARD, BOTH)
    }
    everyone = [BASELINE, *contenders]
    differences = _compare(everyone, case, inputs, advance)
    copies = _copies(inputs)
    results = []
    for direction in (FORWARD, BOTH):
        backward = direction == BOTH
        candidates = [c for c in everyone if backward or not c.deterministic]
        right = [c for c in candidates if differences[c.name].problem(backward) is None]
        seconds, graphs = _time(right, case, copies, direction, rounds, advance)
        for contender in candidates:
            taken = contender.prepare(inputs, case.shape)
            least = floor(
                case.shape, taken, contender.arguments, touched_rows, backward, speeds[direction]
            )
            found = differences[contender.name]
            results.append(_result(contender, direction, found, seconds, least, graphs))
    name = str(dtype).removeprefix("torch.")
    return CaseTimes(case, name, len(copies), touched_rows, speeds, results)


def _compare(
    contenders: Sequence[Contender],
    case: OpCase,
    inputs: Inputs,
    advance: Callable[[str], None],
) -> dict[str, Differences]:
    """By name, how far each is from grid_sample."""
    advance("comparison")
    expected = Expected(case.shape.levels, inputs)
    found = {}
    for contender in contenders:
        advance(f"comparison, {contender.name}")
        found[contender.name] = expected.compare(contender, case.shape, inputs)
    return found


def _time(
    contenders: Sequence[Contender],
    case: OpCase,
    copies: Sequence[Inputs],
    direction: str,
    rounds: int,
    advance: Callable[[str], None],
) -> tuple[dict[str, list[float]], set[str]]:
    """By name, the seconds of every round; and who was replayed from a CUDA graph."""

    def announce(name: str) -> None:
        advance(f"{direction}, {name}")

    few_queries = case.shape.queries < _FEWEST_QUERIES_WITHOUT_GRAPH
    turns, graphs = {}, set()
    for contender in contenders:
        announce(contender.name)
        call = _call(contender, case, copies, direction == BOTH)
        graphable = few_queries and not contender.waits
        device = copies[0]["value"].device
        turns[contender.name], graph = _turn(call, len(copies), device, graphable)
        if graph:
            graphs.add(contender.name)
    return take_turns(turns, rounds, announce), graphs


def _copies(inputs: Inputs) -> list[Inputs]:
    """The inputs and some copies: none should be in the nearest caches when its turn comes.

    On a CPU two will do. They leave the value about where the projection before an operator
    leaves it, in the last cache if that is large enough.
    """
    wanted = _FEWEST_COPIES
    if inputs["value"].is_cuda:
        num_bytes = sum(tensor.nbytes for tensor in inputs.values())
        wanted = min(max(wanted, -(-_BYTES_OF_COPIES // num_bytes)), _MOST_COPIES)
    return [inputs] + [{k: v.clone() for k, v in inputs.items()} for _ in range(wanted - 1)]


def _call(contender: Contender, case: OpCase, copies: Sequence[Inputs], backward: bool) -> Call:
    prepared = [contender.prepare(copy, case.shape) for copy in copies]
    run: Callable[..., object] = contender.forward_backward if backward else contender.forward
    return lambda number: run(case.shape.levels, prepared[number % len(prepared)])


def _turn(call: Call, num_copies: int, device: torch.device, graphable: bool) -> tuple[Turn, bool]:
    """How to time the call, and whether from a graph."""
    if device.type == "cpu":
        return cpu_turn(call), False
    if graphable:
        try:
            return cuda_turn(call, num_copies, graph=True), True
        except RuntimeError:
            # A peer may wait for the GPU: the result says that no graph was replayed.
            torch.cuda.synchronize()
    return cuda_turn(call, num_copies, graph=False), False


def _result(
    contender: Contender,
    direction: str,
    differences: Differences,
    seconds: Mapping[str, list[float]],
    least: Floor,
    graphs: Container[str],
) -> Result:
    name = contender.name
    mine = seconds.get(name, [])
    time = spread(mine) if mine else None
    slow = seconds.get(BASELINE.name, []) if name != BASELINE.name else []
    unfused = seconds.get(contender.unfused, []) if contender.unfused is not None else []
    difference = differences.out if direction == FORWARD else differences.gradients
    return Result(
        contender=name,
        direction=direction,
        # JSON knows neither NaN nor infinity.
        difference=difference if math.isfinite(difference) else None,
        problem=differences.problem(direction == BOTH),
        seconds=mine,
        time=time,
        speedup=speedup(slow, mine) if mine and slow else None,
        fused_speedup=speedup(unfused, mine) if mine and unfused else None,
        floor=least,
        floor_share=least.seconds / time.median if time else None,
        graph=name in graphs,
    )
