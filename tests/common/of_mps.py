"""An Apple GPU as far as Python sees it: tensors that say that they are there, and no float64.

    OnMps.choose(monkeypatch)
    with OnMps(): train()

They lie on the CPU. What comes out of a call with such a tensor, or with device mps, is one;
`.cpu()` and `.to("cpu")` give a copy that is none.
"""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode

MPS = torch.device("mps")
CPU = torch.device("cpu")
GET_DEVICE = torch.Tensor.device.__get__
SET_DATA = torch.Tensor.data.__set__
AS_ARRAY = (torch.Tensor.numpy, torch.Tensor.__array__)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among arguments or results, in lists, tuples and dicts too."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def is_there(tensor: torch.Tensor) -> bool:
    return vars(tensor).get("_is_on_mps", False)


def device_of(value: Any) -> torch.device | None:
    """What an argument says of a device."""
    if isinstance(value, torch.Tensor):
        return MPS if is_there(value) else CPU
    if isinstance(value, str) and value in ("mps", "cpu"):
        return torch.device(value)
    return value if isinstance(value, torch.device) else None


def as_cpu(value: Any) -> Any:
    """An argument with the CPU in the place of the GPU."""
    if isinstance(value, torch.Tensor) or device_of(value) != MPS:
        return value
    return CPU


class OnMps(TorchFunctionMode):
    """Inside the block, tensors of device mps are those on the Apple GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors = 0  # that were there

    @staticmethod
    def choose(monkeypatch: pytest.MonkeyPatch) -> None:
        """accelerate chooses the GPU."""
        monkeypatch.setattr(Accelerator, "device", property(lambda self: MPS))

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function == GET_DEVICE:
            return device_of(args[0])
        if function == torch._C._nn._parse_to:  # Module.to reads what it was given
            return function(*args, **kwargs)
        given = tensors_in([args, kwargs])
        some_there = any(map(is_there, given))
        if some_there and function in AS_ARRAY:
            raise TypeError("can't convert mps:0 device type tensor to numpy")

        asked = device_of(kwargs.get("device"))
        if function == torch.Tensor.cpu:
            asked = CPU
        if function == torch.Tensor.to and len(args) > 1:
            asked = device_of(args[1]) or asked
        result = function(*map(as_cpu, args), **{k: as_cpu(v) for k, v in kwargs.items()})

        if function == SET_DATA and is_there(args[1]):
            self._put_there(args[0], function)
        if function == torch.Tensor.copy_ or not (some_there or asked == MPS):
            return result
        if asked == CPU:
            return result.clone() if some_there else result
        if asked == MPS and given and not some_there and result is given[0]:
            result = result.clone()  # what it was stays on the CPU
        for tensor in tensors_in(result):
            self._put_there(tensor, function)
        return result

    def _put_there(self, tensor: torch.Tensor, function: Any) -> None:
        if tensor.dtype == torch.float64:
            name = getattr(function, "__name__", function)
            raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype ({name})")
        tensor._is_on_mps = True
        self.tensors += 1
