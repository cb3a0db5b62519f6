"""Build ONNX graphs with automatic names of tensors, so that the code reads like the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Tensor = str
"""The name of a tensor in a graph under construction."""

_OPSET = 17
_IR_VERSION = 8
"""Fixed, and old enough for every ONNX Runtime in use: the default depends on the installed `onnx`."""


class GraphBuilder:
    """Collects nodes and constants and names each by its position: the same calls give the same bytes."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Tensor:
        """Add a constant."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def integers(self, *values: int) -> Tensor:
        """Add a vector of int64, the form of operators' axes and sizes."""
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: Tensor, output: str | None = None, **attributes: Any) -> Tensor:
        """Add a node of the operator `kind`; return its output."""
        name = output or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def split(self, tensor: Tensor, parts: int, axis: int) -> list[Tensor]:
        """Split `tensor` along `axis`, which has `parts` entries, into its entries; the axis is kept."""
        outputs = [f"n{len(self._nodes)}_{part}" for part in range(parts)]
        sizes = self.integers(*[1] * parts)
        self._nodes.append(helper.make_node("Split", [tensor, sizes], outputs, axis=axis))
        return outputs

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Add", a, b)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Sub", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Mul", a, b)

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        return self.op("Div", a, b)

    def sqrt(self, a: Tensor) -> Tensor:
        return self.op("Sqrt", a)

    def square(self, a: Tensor) -> Tensor:
        return self.mul(a, a)

    def scale(self, a: Tensor, factor: float) -> Tensor:
        return self.mul(a, self.constant(factor))

    def shift(self, a: Tensor, offset: float) -> Tensor:
        return self.add(a, self.constant(offset))

    def model(self, name: str, shape: list[int | str]) -> onnx.ModelProto:
        """Return the model from `input` to `output`, both float32 of `shape`; a name in it is a free dimension."""
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("input", "output")]
        graph = helper.make_graph(self._nodes, name, ends[:1], ends[1:], self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="uvr-api")
