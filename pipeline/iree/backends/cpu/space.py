"""The ways to lower a CPU kernel: tiles of its loops by work group, by cache and by vector registers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from pipeline.iree.spaces import Place, Space, Values, numbers, ordered, powers
from pipeline.iree.tuning import Change, Lowering

_LIST = re.compile(r"(\w+) = \[([\d, ]*)\]")
_CPU = "#iree_cpu.lowering_config<"
_PEELING = "enable_loop_peeling"
_LARGEST = 32  # vectors of a tile that is computed in registers; more only spill
_GUESSES = 4
_ROWS = (1, 2, 4, 6, 8, 12, 14, 24)  # of a tile, that are guessed: the more registers, the more
_OPERANDS = 4  # registers that are not for what is summed up
_GROUP_CYCLES = 1500  # that a work group takes to be begun and ended, where several threads share them
_SHARED = 2e-4  # seconds that a call takes one thread, above which others are to help
_MASKED = 1.7  # how much longer masked vectors take
_WIDE = 1.5  # how much longer products take in tiles of several vectors: measured, whatever the registers
_COMBINATIONS = 20000
_UNKNOWN = 100  # taken for the extent of a loop that is not known


def of(places: Sequence[Place], lanes: int, registers: int, seconds: float) -> Space | None:
    """The space of a kernel with these places, on a CPU with so many lanes in each of so many vector registers; None for one that
    there is nothing to choose in.

    A kernel that takes a thread long keeps about as many work groups as it has: others may have more cores than this machine.
    """
    roots = [place for place in places if "distribution = [" in place.attributes.get("lowering_config", "")]
    if len(roots) != 1 or "distribution" not in _lists(roots[0]):
        return None
    return _Tiles(places, roots[0], lanes, registers, seconds > _SHARED).space()


class _Tiles:
    """The space of a CPU kernel: tiles of loops by work group, by cache and by vector registers.

    Knobs, by the loop's number at the root: `v0`, its vector tile; `d0`, its work group's tile, 0 for all of it; `r…`, how many
    elements are reduced at a time, by operation, list and position; `cache`: 0 as the work group's tile, 1 four vector tiles;
    `peel`: whether what is left over of loops is computed apart.
    """

    def __init__(self, found: Sequence[Place], root: Place, lanes: int, registers: int, shared: bool) -> None:
        self._found, self._root, self._shared = found, root, shared
        self._lanes, self._registers = lanes, registers
        self._lists = {place.index: _lists(place) for place in found}
        mine = self._lists[root.index]
        self._distribution = mine["distribution"]
        self._vector = mine.get("vector_common_parallel", [])
        self._loops = [i for i in range(len(self._distribution)) if self._of(self._vector, i) or self._distribution[i]]
        self._knobs = self._choices()

    @staticmethod
    def _of(values: Sequence[int], index: int) -> int:
        return values[index] if index < len(values) else 0

    def _extent(self, loop: int) -> int:
        known = self._root.loops[loop] if loop < len(self._root.loops) else None
        return known or 0

    def _choices(self) -> dict[str, list[int]]:
        knobs: dict[str, list[int]] = {}
        for loop in self._loops:
            extent, now = self._extent(loop), self._of(self._vector, loop)
            limit = extent or 1 << 30
            if self._vector:
                fits = [size for size in (*powers(64), 3, 5, 6, 7, 12, 14, 24) if size <= limit]
                knobs[f"v{loop}"] = ordered([*fits, *([extent] if extent and extent <= 64 else []), *([now] if now else [])])
            tiles = [size for size in (*powers(512, 4), 24, 48, 96, 192) if size < limit]
            before = self._distribution[loop]
            larger = [0, *tiles] if not self._shared else [size for size in tiles if size <= 1.5 * before]
            knobs[f"d{loop}"] = ordered([before, *larger])
        for index, key, position, now in self._reductions():
            knobs[f"r{index}{key}{position}"] = ordered([*powers(32), now])
        if "cache_parallel" in self._lists[self._root.index]:
            knobs["cache"] = [0, 1]
        if "DoubleTilingExpert" in self._found[0].attributes.get("translation_info", ""):
            knobs["peel"] = [0, 1]
        return {name: values for name, values in knobs.items() if len(values) > 1}

    def _reductions(self) -> list[tuple[int, str, int, int]]:
        """The tiles of reductions and of loops that only one operation has: its index, the list's name, position, size."""
        found = []
        for index, lists in self._lists.items():
            for key in ("vector_reduction", "vector_inner_parallel"):
                found += [(index, key, position, size) for position, size in enumerate(lists.get(key, ())) if size]
        return sorted(found, key=lambda one: one[0] != self._root.index)[:4]

    def _now(self) -> dict[str, int]:
        """What the compiler chose, as values of knobs."""
        now = {f"v{loop}": self._of(self._vector, loop) or 1 for loop in self._loops}
        now |= {f"d{loop}": self._distribution[loop] for loop in self._loops}
        now |= {f"r{index}{key}{position}": size for index, key, position, size in self._reductions()}
        return {**now, "cache": 0, "peel": int(_PEELING in self._found[0].attributes.get("translation_info", ""))}

    def space(self) -> Space | None:
        return Space(self._knobs, self._lower, self._guesses(), self._part) if self._knobs else None

    def _lower(self, values: Values) -> Lowering | None:
        values = {**self._now(), **values}
        vector = {loop: values[f"v{loop}"] for loop in self._loops}
        reduced = math.prod(size for name, size in values.items() if name.startswith(f"r{self._root.index}"))
        tile = math.prod(vector.values())
        if tile > _LARGEST * self._lanes or tile * reduced > 8 * _LARGEST * self._lanes:
            return None
        changes = []
        for place in self._found:
            for attribute, before in place.attributes.items():
                after = self._attribute(place, attribute, before, values, vector)
                if after != before:
                    changes.append(Change(place.index, place.operation, attribute, before, after))
        return tuple(changes)

    def _attribute(self, place: Place, attribute: str, before: str, values: Values, vector: Mapping[int, int]) -> str:
        if attribute == "translation_info":
            return _peeled(before, bool(values["peel"])) if "peel" in self._knobs else before
        lists = {key: list(sizes) for key, sizes in self._lists[place.index].items()}
        loops = self._mapping(place)
        for key, sizes in lists.items():
            for position, size in enumerate(sizes):
                name = f"r{place.index}{key}{position}"
                loop = loops.get(position)
                if name in values:
                    sizes[position] = values[name]
                elif loop is None:
                    continue
                elif key == "vector_common_parallel" and size:
                    sizes[position] = vector[loop]
                elif key in ("distribution", "cache_parallel"):
                    sizes[position] = self._tile(key, values[f"d{loop}"], vector[loop], loop, values["cache"])
        return f"{_CPU}{', '.join(f'{key} = {sizes}' for key, sizes in lists.items())}>" if lists else before

    def _tile(self, key: str, tile: int, vector: int, loop: int, cache: int) -> int:
        if key == "cache_parallel" and cache and self._extent(loop) != 1:
            return min(4 * vector, tile) if tile else 4 * vector
        return max(tile, vector) if tile else 0

    def _mapping(self, place: Place) -> dict[int, int]:
        """Which of the root's loops the loops of another operation are, by position: those that are tiled as the root's are."""
        if place.index == self._root.index:
            return {loop: loop for loop in self._loops}
        mine, root = self._lists[place.index], self._lists[self._root.index]
        shared = [key for key in ("vector_common_parallel", "cache_parallel") if key in mine and key in root]
        rank, free, found = max((len(mine[key]) for key in shared), default=0), list(self._loops), {}
        for position in range(rank):
            same = [loop for loop in free if all(self._of(mine[key], position) == self._of(root[key], loop) for key in shared)]
            if same:
                found[position] = same[0]
                free.remove(same[0])
        return found

    def _guesses(self) -> list[Values]:
        """What a model of costs likes best, with the compiler's own choice for the rest, and single steps from that choice."""
        now, lanes, last = self._now(), self._lanes, max(self._loops, default=-1)
        good: dict[str, tuple[int, ...]] = {name: (0, 1) if name == "peel" else (1, 4, lanes, 2 * lanes) for name in self._knobs}
        for loop in self._loops:
            good[f"v{loop}"] = (lanes, 2 * lanes, 4 * lanes) if loop == last else _ROWS[: 5 if self._registers < 32 else None]
            good[f"d{loop}"] = (0, 16, 32, 64, 128)
        good["cache"] = ()
        options = [[v for v in values if v in good[name] or v == now[name]] for name, values in self._knobs.items()]
        combinations = itertools.islice(itertools.product(*options), _COMBINATIONS)
        liked = sorted(map(self._named, combinations), key=lambda values: self._cost({**now, **values}))[:_GUESSES]
        chosen = {name: now[name] for name in self._knobs}
        steps = [{**chosen, name: v} for name, values in self._knobs.items() for v in _beside(values, now[name])]
        pairs = itertools.zip_longest(liked, sorted(steps, key=lambda values: self._cost({**now, **values})))
        return [values for pair in pairs for values in pair if values]

    def _named(self, values: Sequence[int]) -> dict[str, int]:
        return dict(zip(self._knobs, values, strict=True))

    def _part(self, values: Values) -> float:
        now = self._now()
        return self._cost({**now, **values}) / self._cost(now)

    def _cost(self, values: Values) -> float:
        """About how many cycles a call takes: the innermost tile's loads and arithmetic, what is thrown away, work groups."""
        inner = self._loops[-1]
        sizes = {loop: values[f"v{loop}"] for loop in self._loops}
        extents = {loop: self._extent(loop) or _UNKNOWN for loop in self._loops}
        rows = math.prod(size for loop, size in sizes.items() if loop != inner)
        vectors = -(-sizes[inner] // self._lanes)
        registers = rows * vectors
        depth = math.prod(size for name, size in values.items() if name.startswith(f"r{self._root.index}"))
        tile = float(max(rows * vectors, 4) + rows + vectors)  # few accumulators wait for each other
        spilled = max(0, registers - (self._registers - _OPERANDS))  # what does not fit is stored and loaded again
        tile *= 1 + spilled / 6
        if depth > 1 and vectors > 1:
            tile *= _WIDE
        tile *= 1 + 0.02 * abs(math.log2(max(depth, 1)) - 2)
        reduced = math.prod(extent or _UNKNOWN for i, extent in enumerate(self._root.loops) if i not in self._loops) or 1
        tiles = 1.0
        groups = 1
        for loop, size in sizes.items():
            part = min(values[f"d{loop}"] or extents[loop], extents[loop])
            count = -(-extents[loop] // part)
            tiles *= count * _tiles(part, size, vectors if loop == inner else size, bool(values["peel"]))
            groups *= count
        return tiles * tile * reduced / math.sqrt(min(groups, 2)) + groups * _GROUP_CYCLES


def _beside(values: Sequence[int], value: int) -> Sequence[int]:
    """The values next to this one."""
    at = values.index(value)
    return [*values[max(at - 1, 0) : at], *values[at + 1 : at + 2]]


def _tiles(extent: int, size: int, parts: int, peels: bool) -> float:
    """How many tiles of a `size` a loop takes: what is left over is masked, or is computed one by one, a tile's part each."""
    whole, left = divmod(extent, size)
    if not left:
        return whole
    return whole + 1.5 * left / parts if peels else _MASKED * (whole + 1)


def _peeled(text: str, wanted: bool) -> str:
    """A CPU kernel's translation with or without loop peeling."""
    if (_PEELING in text) == wanted or not text.endswith(">"):
        return text
    if wanted:
        return text if "{" in text else f"{text[:-1]}, {{{_PEELING}}}>"
    return text.replace(f", {{{_PEELING}}}", "")


def _lists(place: Place) -> dict[str, list[int]]:
    """The tile sizes of an operation of CPU code, by level; nothing where its configuration holds more than that."""
    text = place.attributes.get("lowering_config", "")
    lists = {key: numbers(sizes) for key, sizes in _LIST.findall(text)}
    return lists if f"{_CPU}{', '.join(f'{key} = {sizes}' for key, sizes in lists.items())}>" == text else {}
