"""Models with random weights, of kinds that no package has as one file: what `latency` measures beside real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.bench.sweep.models.made.graph import Graph

FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Made:
    """A model that `build` writes, with its inputs as a spec has them."""

    build: Callable[[Path], None]
    inputs: tuple[dict[str, Any], ...]


def _input(name: str, *shape: int, **more: object) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": "float32", "low": -1, "high": 1, **more}


def _conv(graph: Graph, x: str, channels: int, to: int, *kernel: int, kind: str = "Conv", **attributes: object) -> str:
    """A convolution with a bias, whose outputs are about as large as its inputs."""
    name = f"{kind}{len(graph.nodes)}"
    shape = [channels, to, *kernel] if kind == "ConvTranspose" else [to, channels, *kernel]
    weight = graph.weight(shape, f"{name}.weight", 1 / np.sqrt(channels * np.prod(kernel)))
    return graph.op(kind, x, weight, graph.weight([to], f"{name}.bias", 0.02), **attributes)


# A decoder step: four layers of a transformer for one token, with a cache of what came before.

_WIDTH, _HEADS, _PAST, _LAYERS, _VOCABULARY = 256, 4, 63, 4, 1000


def decoder(path: Path) -> None:
    """One token through four layers that attend to 63 before it."""
    graph, size = Graph(seed=1), _WIDTH // _HEADS
    hidden = graph.input("x", FLOAT, [1, 1, _WIDTH])
    for layer in range(_LAYERS):
        name = f"layer{layer}"
        normed = graph.norm(hidden, _WIDTH, f"{name}.before")
        split = []
        for part in ("query", "key", "value"):
            projected = graph.linear(normed, _WIDTH, _WIDTH, f"{name}.{part}")
            split.append(
                graph.op("Transpose", graph.op("Reshape", projected, graph.ints([1, 1, _HEADS, size])), perm=[0, 2, 1, 3])
            )
        for i, part in ((1, "keys"), (2, "values")):
            past = graph.input(f"{part}{layer}", FLOAT, [1, _HEADS, _PAST, size])
            split[i] = graph.op("Concat", past, split[i], axis=2)
            graph.output(split[i], f"new_{part}{layer}", FLOAT, [1, _HEADS, _PAST + 1, size])
        scores = graph.op("MatMul", split[0], graph.op("Transpose", split[1], perm=[0, 1, 3, 2]))
        weights = graph.op("Softmax", graph.op("Mul", scores, graph.floats(size**-0.5)), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", weights, split[2]), perm=[0, 2, 1, 3])
        mixed = graph.op("Reshape", mixed, graph.ints([1, 1, _WIDTH]))
        hidden = graph.op("Add", hidden, graph.linear(mixed, _WIDTH, _WIDTH, f"{name}.mixed"))
        inner = graph.linear(graph.norm(hidden, _WIDTH, f"{name}.after"), _WIDTH, 4 * _WIDTH, f"{name}.inner")
        inner = graph.op("Mul", inner, graph.op("Sigmoid", inner))
        hidden = graph.op("Add", hidden, graph.linear(inner, 4 * _WIDTH, _WIDTH, f"{name}.outer"))
    graph.output(graph.matmul(graph.norm(hidden, _WIDTH, "last"), _WIDTH, _VOCABULARY, "words"), "y", FLOAT, [1, 1, _VOCABULARY])
    graph.save(str(path))


_CACHES = tuple(
    _input(f"{part}{layer}", 1, _HEADS, _PAST, _WIDTH // _HEADS) for layer in range(_LAYERS) for part in ("keys", "values")
)


def unet(path: Path) -> None:
    """A U-Net of three levels for a picture of 64 × 64, with normalizations as PyTorch trains them."""
    graph = Graph(seed=2)

    def block(x: str, channels: int, to: int) -> str:
        for before in (channels, to):
            x = _conv(graph, x, before, to, 3, 3, pads=[1] * 4)
            name = f"norm{len(graph.nodes)}"
            scale = graph.positive([to], f"{name}.scale")
            mean = graph.weight([to], f"{name}.mean", 0.1)
            x = graph.op(
                "BatchNormalization",
                x,
                scale,
                graph.weight([to], f"{name}.bias", 0.02),
                mean,
                graph.positive([to], f"{name}.var"),
            )
            x = graph.op("Relu", x)
        return x

    down, x, channels = [], graph.input("x", FLOAT, [1, 3, 64, 64]), 3
    for to in (16, 32, 64):
        x = block(x, channels, to)
        down.append((x, to))
        x, channels = graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), to
    x, channels = block(x, channels, 128), 128
    for beside, to in reversed(down):
        x = _conv(graph, x, channels, to, 2, 2, kind="ConvTranspose", strides=[2, 2])
        x, channels = block(graph.op("Concat", beside, x, axis=1), 2 * to, to), to
    graph.output(graph.op("Sigmoid", _conv(graph, x, channels, 1, 1, 1)), "y", FLOAT, [1, 1, 64, 64])
    graph.save(str(path))


def unet_f16(path: Path) -> None:
    """The same with weights and values of 16 bits."""
    unet(path)
    model = onnx.load(path)
    for put in (*model.graph.input, *model.graph.output):
        put.type.tensor_type.elem_type = TensorProto.FLOAT16
    for weight in model.graph.initializer:
        half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name)
        weight.CopyFrom(half)
    del model.graph.value_info[:]
    onnx.save(model, path)


def vocoder(path: Path) -> None:
    """A small HiFi-GAN: 16 frames of 80 bands become 4096 samples."""
    graph, channels = Graph(seed=3), 128
    x = _conv(graph, graph.input("x", FLOAT, [1, 80, 16]), 80, channels, 7, pads=[3, 3])
    for stride, kernel in ((8, 16), (8, 16), (4, 8)):
        pads = [(kernel - stride) // 2] * 2
        x = graph.op("LeakyRelu", x, alpha=0.1)
        x = _conv(graph, x, channels, channels // 2, kernel, kind="ConvTranspose", strides=[stride], pads=pads)
        channels //= 2
        sums = []
        for size in (3, 7):
            inner = x
            for dilation in (1, 3):
                pads = [dilation * (size - 1) // 2] * 2
                inner_ = graph.op("LeakyRelu", inner, alpha=0.1)
                inner = graph.op("Add", inner, _conv(graph, inner_, channels, channels, size, dilations=[dilation], pads=pads))
            sums.append(inner)
        x = graph.op("Mul", graph.op("Add", *sums), graph.floats(0.5))
    x = graph.op("Tanh", _conv(graph, graph.op("LeakyRelu", x, alpha=0.01), channels, 1, 7, pads=[3, 3]))
    graph.output(x, "y", FLOAT, [1, 1, 4096])
    graph.save(str(path))


def _recurrent(path: Path, kind: str, gates: int, inputs: int, hidden: int, layers: int, steps: int) -> None:
    graph, size = Graph(seed=4), inputs
    x = graph.input("x", FLOAT, [steps, 1, inputs])
    for layer in range(layers):
        spread = hidden**-0.5
        w, r = (graph.weight([1, gates * hidden, n], f"{part}{layer}", spread) for part, n in (("W", size), ("R", hidden)))
        more = {"linear_before_reset": 1} if kind == "GRU" else {}
        found = graph.op(kind, x, w, r, graph.weight([1, 2 * gates * hidden], f"B{layer}", 0.1), hidden_size=hidden, **more)
        x, size = graph.op("Squeeze", found, graph.ints([1])), hidden
    graph.output(x, "y", FLOAT, [steps, 1, hidden])
    graph.save(str(path))


def lstm(path: Path) -> None:
    """Two layers of 50 steps, 64 wide."""
    _recurrent(path, "LSTM", 4, 40, 64, 2, 50)


def gru(path: Path) -> None:
    """One layer of 50 steps, 64 wide."""
    _recurrent(path, "GRU", 3, 40, 64, 1, 50)


def mel(path: Path) -> None:
    """The logarithms of 80 bands of one second of sound: STFT, and a product."""
    graph = Graph(seed=5)
    sound = graph.input("x", FLOAT, [1, 16000])
    window = graph.array(np.hanning(401)[:400].astype(np.float32), "window")
    spectrum = graph.op("STFT", sound, graph.ints(160), window, graph.ints(400), onesided=1)
    power = graph.op("ReduceSum", graph.op("Mul", spectrum, spectrum), graph.ints([3]), keepdims=0)
    centres, bins = np.linspace(0, 200, 82), np.arange(201)[:, None]
    rising, falling = (bins - centres[:-2]) / np.diff(centres)[:-1], (centres[2:] - bins) / np.diff(centres)[1:]
    bands = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    found = graph.op("Log", graph.op("Add", graph.op("MatMul", power, graph.array(bands, "bands")), graph.floats(1e-6)))
    graph.output(found, "y", FLOAT, [1, 98, 80])
    graph.save(str(path))


_PICTURE = _input("x", 1, 3, 64, 64, low=0)
MADE: Mapping[str, Made] = {
    "decoder-step": Made(decoder, (_input("x", 1, 1, _WIDTH), *_CACHES)),
    "unet": Made(unet, (_PICTURE,)),
    "unet-f16": Made(unet_f16, (_PICTURE | {"dtype": "float16"},)),
    "vocoder": Made(vocoder, (_input("x", 1, 80, 16),)),
    "lstm": Made(lstm, (_input("x", 50, 1, 40),)),
    "gru": Made(gru, (_input("x", 50, 1, 40),)),
    "mel": Made(mel, (_input("x", 1, 16000),)),
}
