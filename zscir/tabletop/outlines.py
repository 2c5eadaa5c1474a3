"""The polygons of each shape, around the origin, inside the unit circle, y pointing down."""

from functools import cache
from math import cos, pi, sin

Polygon = tuple[tuple[float, float], ...]


def _arc(
    radius: float, start: float, stop: float, steps: int, squash: float = 1.0, right: float = 0.0, down: float = 0.0
) -> Polygon:
    """Points on an ellipse around (right, down) from angle ``start`` to ``stop`` (turns, clockwise from the right)."""
    angles = [2 * pi * (start + (stop - start) * step / steps) for step in range(steps + 1)]
    return tuple((right + radius * cos(angle), down + radius * squash * sin(angle)) for angle in angles)


def _star() -> Polygon:
    radii = (1.0, 0.42)  # tips and notches
    return tuple((radii[n % 2] * sin(pi * n / 5), 0.06 - radii[n % 2] * cos(pi * n / 5)) for n in range(10))


def _heart() -> Polygon:
    angles = [2 * pi * step / 36 for step in range(36)]
    # The usual heart curve; the divisors bring it into the unit circle.
    curve = [(16 * sin(a) ** 3, -(13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a))) for a in angles]
    return tuple((x / 17.5, y / 16.5 - 0.12) for x, y in curve)


def _cross() -> Polygon:
    a, b = 0.32, 0.92
    return ((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a))


@cache
def outline_of(shape: str) -> tuple[Polygon, ...]:
    """The outer polygon of ``shape`` and, for a ring, the polygon of its hole."""
    return {
        "sphere": (_arc(0.92, 0, 1, 32),),
        "cube": (((-0.85, -0.45), (-0.45, -0.85), (0.85, -0.85), (0.85, 0.45), (0.45, 0.85), (-0.85, 0.85)),),
        "cone": (((0.0, -1.0), *_arc(0.8, 0, 0.5, 12, squash=0.25, down=0.72)),),
        "star": (_star(),),
        "ring": (_arc(0.95, 0, 1, 32), _arc(0.47, 0, 1, 24)),
        "heart": (_heart(),),
        "cross": (_cross(),),
    }[shape]


@cache
def inner_lines_of(shape: str) -> tuple[Polygon, ...]:
    """Lines drawn inside the outline: the edges that make a cube of a hexagon."""
    if shape == "cube":
        corner = (0.45, -0.45)
        return (((-0.85, -0.45), corner), ((0.85, -0.85), corner), ((0.45, 0.85), corner))
    return ()


@cache
def shades_of(shape: str) -> tuple[tuple[Polygon, int], ...]:
    """(polygon, how much lighter or darker from -255 to 255) pairs that give solids a body."""
    return {
        "sphere": ((_arc(0.22, 0, 1, 12, right=-0.32, down=-0.36), 150),),
        "cube": (
            (((-0.85, -0.45), (-0.45, -0.85), (0.85, -0.85), (0.45, -0.45)), 70),
            (((0.45, -0.45), (0.85, -0.85), (0.85, 0.45), (0.45, 0.85)), -70),
        ),
        "cone": ((((0.0, -1.0), (0.8, 0.72), (0.55, 0.86), (0.25, 0.92)), -60),),
    }.get(shape, ())
