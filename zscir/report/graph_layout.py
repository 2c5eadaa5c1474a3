"""Lay out the graph of steps: boxes in layers and curves between them, ready to be drawn as SVG.

Layered drawing (Sugiyama): layers by longest path, one chain of bends for all far children of a step, order by
barycentres, positions by least squares that keep the order and the gaps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

BOX_WIDTH, BOX_HEIGHT = 186, 46
BEND_WIDTH = 10
GAP_X, GAP_Y = 16, 34
SWEEPS = 12
MARGIN = 4

Node = tuple[str, int]  # (step, layer): the box itself, or a bend of its outgoing curves in a later layer


@dataclass(frozen=True)
class PlacedBox:
    """Where a step's box stands (upper left corner)."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class GraphEdge:
    """A curve from a step to the next layer, as an SVG path; ``reaches_box`` says whether it arrives at a box."""

    path: str
    reaches_box: bool


@dataclass(frozen=True)
class GraphLayout:
    """A laid-out graph, in pixels."""

    width: float
    height: float
    boxes: tuple[PlacedBox, ...]
    edges: tuple[GraphEdge, ...]


def layout_graph(parents: Mapping[str, Sequence[str]]) -> GraphLayout:
    """The drawing of steps, given as name -> names of the steps it reads, each of which is itself a step."""
    layer_of = layers(parents)
    links = _links(parents, layer_of)
    ranks = _ordered(_nodes(layer_of, links), links)
    x = _positions(ranks, links, layer_of)
    left = min((x[node] - _width(node, layer_of) / 2 for rank in ranks for node in rank), default=0.0)
    right = max((x[node] + _width(node, layer_of) / 2 for rank in ranks for node in rank), default=0.0)
    shift = MARGIN - left
    boxes = tuple(
        PlacedBox(name, round(x[(name, layer)] + shift - BOX_WIDTH / 2, 1), _top(layer))
        for name, layer in layer_of.items()
    )
    edges = tuple(
        GraphEdge(_path(x[a] + shift, x[b] + shift, a, b, layer_of), layer_of[b[0]] == b[1]) for a, b in links
    )
    return GraphLayout(round(right - left + 2 * MARGIN, 1), _top(len(ranks)) - GAP_Y + MARGIN, boxes, edges)


def layers(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Step -> layer: below all its parents; a step without parents stands just above its first child."""
    found: dict[str, int] = {}

    def visit(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((visit(parent) for parent in parents[name]), default=-1)
        return found[name]

    for name in parents:
        visit(name)
    children: dict[str, list[int]] = {}
    for name, above in parents.items():
        for parent in above:
            children.setdefault(parent, []).append(found[name])
    moved = {name: min(below) - 1 for name, below in children.items() if not parents[name]}
    return {name: moved.get(name, found[name]) for name in parents}


def _links(parents: Mapping[str, Sequence[str]], layer_of: dict[str, int]) -> list[tuple[Node, Node]]:
    """Links between neighbouring layers; far children of one step share its bends."""
    links: dict[tuple[Node, Node], None] = {}
    for name, above in parents.items():
        for parent in above:
            for layer in range(layer_of[parent], layer_of[name] - 1):
                links[((parent, layer), (parent, layer + 1))] = None
            links[((parent, layer_of[name] - 1), (name, layer_of[name]))] = None
    return list(links)


def _nodes(layer_of: dict[str, int], links: Iterable[tuple[Node, Node]]) -> list[list[Node]]:
    nodes = dict.fromkeys([*layer_of.items(), *(node for link in links for node in link)])
    depth = 1 + max(layer_of.values(), default=-1)
    return [[node for node in nodes if node[1] == layer] for layer in range(depth)]


def _ordered(ranks: list[list[Node]], links: list[tuple[Node, Node]]) -> list[list[Node]]:
    """The layers with their nodes in an order of few crossings: the best of some sweeps down and up."""
    up, down = _neighbours(links)
    best, fewest = ranks, _crossings(ranks, down)
    for sweep in range(SWEEPS):
        ranks = _swept(ranks[::-1], down)[::-1] if sweep % 2 else _swept(ranks, up)
        crossings = _crossings(ranks, down)
        if crossings < fewest:
            best, fewest = ranks, crossings
    return best


def _swept(ranks: list[list[Node]], side: dict[Node, list[Node]]) -> list[list[Node]]:
    """Each layer sorted by the mean places of its nodes' neighbours in the layer before."""
    done = ranks[:1]
    for rank in ranks[1:]:
        order = {node: place for place, node in enumerate(done[-1])}
        places = {
            node: _mean([order[neighbour] for neighbour in side.get(node, [])], place)
            for place, node in enumerate(rank)
        }
        done.append(sorted(rank, key=places.__getitem__))
    return done


def _neighbours(links: list[tuple[Node, Node]]) -> tuple[dict[Node, list[Node]], dict[Node, list[Node]]]:
    up: dict[Node, list[Node]] = {}
    down: dict[Node, list[Node]] = {}
    for a, b in links:
        down.setdefault(a, []).append(b)
        up.setdefault(b, []).append(a)
    return up, down


def _crossings(ranks: list[list[Node]], down: dict[Node, list[Node]]) -> int:
    total = 0
    for upper, lower in pairwise(ranks):
        order = {node: place for place, node in enumerate(lower)}
        ends = [sorted(order[child] for child in down.get(node, [])) for node in upper]
        flat = [end for group in ends for end in group]
        total += sum(flat[i] > flat[j] for i in range(len(flat)) for j in range(i + 1, len(flat)))
    return total


def _positions(ranks: list[list[Node]], links: list[tuple[Node, Node]], layer_of: dict[str, int]) -> dict[Node, float]:
    """The centre of each node: near the mean of its neighbours, in order, with gaps kept."""
    up, down = _neighbours(links)
    x: dict[Node, float] = {}
    for rank in ranks:
        x |= dict(zip(rank, _spaced([0.0] * len(rank), _gaps(rank, layer_of)), strict=True))
    for sweep in range(2 * SWEEPS):
        side = (up, down)[sweep % 2] if sweep < SWEEPS else {node: up.get(node, []) + down.get(node, []) for node in x}
        for rank in ranks[:: 1 if sweep % 2 == 0 else -1]:
            wanted = [_mean([x[neighbour] for neighbour in side.get(node, [])], x[node]) for node in rank]
            x |= dict(zip(rank, _spaced(wanted, _gaps(rank, layer_of)), strict=True))
    return x


def _gaps(rank: list[Node], layer_of: dict[str, int]) -> list[float]:
    widths = [_width(node, layer_of) for node in rank]
    return [(a + b) / 2 + GAP_X for a, b in pairwise(widths)]


def _spaced(wanted: list[float], gaps: list[float]) -> list[float]:
    """The positions nearest to ``wanted`` (least squares) that keep order and gaps: pool adjacent violators."""
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=False):
        mean, count = value - offset, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [value + offset for value, offset in zip(flat, offsets, strict=False)]


def _mean(values: list[float] | list[int], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _width(node: Node, layer_of: dict[str, int]) -> float:
    return BOX_WIDTH if layer_of[node[0]] == node[1] else BEND_WIDTH


def _top(layer: int) -> float:
    return MARGIN + layer * (BOX_HEIGHT + GAP_Y)


def _path(x1: float, x2: float, a: Node, b: Node, layer_of: dict[str, int]) -> str:
    """From the lower edge of ``a`` to the upper edge of ``b``; a bend is crossed by a straight stroke."""
    top, bottom = _top(a[1]) + BOX_HEIGHT, _top(b[1])
    middle = (top + bottom) / 2
    start = f"M{x1:.1f},{top - BOX_HEIGHT:.1f}V{top:.1f}" if layer_of[a[0]] != a[1] else f"M{x1:.1f},{top:.1f}"
    return f"{start}C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{bottom:.1f}"
