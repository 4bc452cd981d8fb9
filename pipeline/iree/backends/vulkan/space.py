"""The ways to lower a shader: how large its work groups are, and how much each invocation computes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from pipeline.iree.spaces import Place, Space, Values, numbers, ordered, powers
from pipeline.iree.tuning import Change, Lowering

_TILES = re.compile(r"tile_sizes = \[((?:\[[\d, ]*\](?:, )?)*)\]")
_GROUP = re.compile(r"workgroup_size = \[([\d, ]+)\]")
_SHAPES, _PARTS = ((32, 2), (8, 8), (16, 4)), ((4, 4), (4, 1), (1, 1))
_REDUCED = 4  # elements at a time
_LARGEST_GROUP, _LARGEST_TILE = 256, 64  # invocations; elements that one of them computes at a time


def of(places: Sequence[Place]) -> Space | None:
    """The space of a kernel with these places; None for one that there is nothing to choose in."""
    tiled = [place for place in places if _TILES.search(place.attributes.get("lowering_config", ""))]
    if not tiled or not _GROUP.search(places[0].attributes.get("translation_info", "")):
        return None
    return _Shader(places, tiled).space()


class _Shader:
    """The space of a shader: how large a work group is, and how much each of its invocations computes.

    Knobs by dimension of the work group, the innermost first: `w0`, its invocations; `t0`, what each computes at a time; `m0`,
    how often it does so, where the pipeline has loops for that; `k…`, how many elements are reduced at a time.
    """

    def __init__(self, found: Sequence[Place], shaders: Sequence[Place]) -> None:
        self._found, self._shaders = found, shaders
        self._before = shaders[-1].attributes["lowering_config"]
        self._levels = _tile_lists(self._before)
        group, thread = self._levels[0], self._levels[1] if len(self._levels) > 1 else []
        self._thread = thread
        self._dimensions = [i for i, size in enumerate(group) if size and i < len(thread)][::-1][:3]
        info = found[0].attributes["translation_info"]
        self._loops = "BaseDistribute" in info
        match = _GROUP.search(info)
        self._group = numbers(match[1]) if match else [1, 1, 1]

    def space(self) -> Space | None:
        knobs: dict[str, list[int]] = {}
        for number, position in enumerate(self._dimensions):
            knobs[f"w{number}"] = ordered([*powers(256 if number == 0 else 32), self._group[number]])
            knobs[f"t{number}"] = ordered([*powers(8), self._thread[position]])
            if self._loops:
                knobs[f"m{number}"] = list(powers(64))
        for level, sizes in enumerate(self._levels[2:], 2):
            knobs |= {f"k{level}_{i}": ordered([*powers(64), size]) for i, size in enumerate(sizes) if size}
        return Space(knobs, self._lower, self._guesses(knobs)) if self._dimensions else None

    def _guesses(self, knobs: dict[str, list[int]]) -> list[Values]:
        """Work groups of the usual shapes, whose invocations compute some elements or one."""
        found: list[Values] = []
        for (x, y), (across, down) in itertools.product(_SHAPES, _PARTS):
            values = dict.fromkeys(knobs, 1) | {name: _REDUCED for name in knobs if name.startswith("k")}
            values |= {"w0": x, "t0": across} | ({"w1": y, "t1": down} if "w1" in knobs else {})
            if all(value in knobs[name] for name, value in values.items()) and values not in found:
                found.append(values)
        return found

    def _lower(self, values: Values) -> Lowering | None:
        group = [values.get(f"w{number}", 1) for number in range(3)]
        if math.prod(group) > _LARGEST_GROUP:
            return None
        levels = [list(sizes) for sizes in self._levels]
        for number, position in enumerate(self._dimensions):
            thread = values[f"t{number}"]
            levels[1][position] = thread
            levels[0][position] = group[number] * thread * values.get(f"m{number}", 1)
        if math.prod(size for size in levels[1] if size) > _LARGEST_TILE:
            return None
        for level, sizes in enumerate(levels):
            for i in range(len(sizes)):
                sizes[i] = values.get(f"k{level}_{i}", sizes[i])
        after = _TILES.sub(f"tile_sizes = {levels}", self._before)
        changes = []
        for place in self._found:
            for attribute, before in place.attributes.items():
                new = after if attribute == "lowering_config" and before == self._before else before
                if attribute == "translation_info":
                    new = _GROUP.sub(f"workgroup_size = {group}", before)
                if new != before:
                    changes.append(Change(place.index, place.operation, attribute, before, new))
        return tuple(changes)


def _tile_lists(text: str) -> list[list[int]]:
    match = _TILES.search(text)
    return [numbers(sizes) for sizes in re.findall(r"\[([\d, ]*)\]", match[1])] if match else []
