"""Tracing: the operations a network really runs, in train and in eval mode, with their output shapes.

A copy on the `meta` device is traced by `torch.fx` (modules of `torch.nn` are leaves) and run once on shapes alone, so
that the caller's network, its statistics and the random state stay as found. What cannot be traced is refused with the
module's path. Which operation means what stands in `rules.py`.
"""

from __future__ import annotations

import gc
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as _every_module
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlybird.copying import copied, empty_tensors, full_name, own_tensors
from earlybird.errors import SlimError, first_line, require_type
from earlybird.slimming.tracer import ShapePropagation, Tracer, target_name

ExampleInput = Tensor | tuple[Any, ...]
REMOVE_HOOK = "remove it to cut here"  # ends each reason that is a hook or a replaced forward
_CONSTANT = "_tensor_constant"  # fx keeps the constants of a graph under such names in the root.


@dataclass(frozen=True)
class TracedNetwork:
    """One copy of a network and its graphs: one where train and eval mode run the same operations, else one of each.

    Attributes:
        modules: path -> module of the copy, each module once, in `named_modules()` order.
        graphs: mode -> graph; `traced_value(node)` gives what each node's output was, tensors on `meta`.
        whole: path -> why this module's tensors cannot be narrowed (it shares a parameter with another).
        untraced: class -> why tracing could not enter modules of this class.
        hooked: path -> what the user hung on this module: a forward hook and its name, or another forward.
    """

    modules: dict[str, nn.Module]
    graphs: dict[str, fx.Graph]
    whole: dict[str, str]
    untraced: dict[type[nn.Module], str]
    hooked: dict[str, str]

    @cached_property
    def path_of(self) -> dict[int, str]:
        """`id` of a module -> its path."""
        return {id(module): path for path, module in self.modules.items()}


def trace(model: nn.Module, example_input: ExampleInput) -> TracedNetwork:
    """Trace `model` in both modes with inputs shaped like `example_input` (batch first; a batch of 1 is doubled).

    A module whose own forward cannot be traced becomes one opaque operation, and so do others of its class. Shapes are
    found on `meta`; where that cannot run (a module that looks at its numbers), on a copy with the example itself.

    Raises:
        SlimError: the network's own forward branches on data, or an operation fails on the example. The message names
            the module.
    """
    require_type("the network", model, nn.Module, SlimError, "give a torch.nn.Module")
    with random_state_kept():
        if any(is_lazy(parameter) for parameter in model.parameters()):
            raise SlimError("the network has lazy modules that have not run yet; call it once on the example first")
        _refuse_wrappers(model)
        # Found before the copy: a move to `meta` makes two of a shared tensor.
        network = TracedNetwork({}, {}, _sharing_modules(model), {}, _hooked_paths(model))
        copy = _copied(model, empty_tensors(model)).to("meta")
        remove_user_hooks_(copy)
        inputs, listings = as_tuple(example_input), set()
        for mode in ("train", "eval"):
            copy.train(mode == "train")
            tracer = _trace_mode(copy, inputs, network)
            listing = _listing(tracer.graph)
            if listing not in listings or network.untraced:  # What is not entered may give other shapes in each mode.
                listings.add(listing)
                _note_values(tracer, copy, model, inputs)
                network.graphs[mode] = tracer.graph
        network.modules.update(copy.named_modules())
    return network


def as_tuple(example_input: ExampleInput) -> tuple[Any, ...]:
    """The positional inputs of one call."""
    return tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the CPU generators of torch, numpy and Python back afterwards (a traced forward may draw from any)."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def remove_user_hooks_(model: nn.Module) -> None:
    """Drop forward hooks: a user's (a logger, say) must see no run of ours. Those of `torch.nn.utils` make weights."""
    for module in model.modules():
        module._backward_hooks.clear()  # They see gradients alone, and cannot be traced.
        module._backward_pre_hooks.clear()
        for hooks, key in _user_hooks(module):
            del hooks[key]


def _trace_mode(model: nn.Module, inputs: tuple[Any, ...], network: TracedNetwork) -> Tracer:
    """The tracer of one mode with its graph; classes of modules that it cannot enter are added to `untraced`."""
    is_single = any(isinstance(x, Tensor) and x.dim() > 0 and x.shape[0] == 1 for x in inputs)
    on_meta = tuple(doubled(torch.empty_like(x, device="meta")) if isinstance(x, Tensor) else x for x in inputs)
    while True:
        tracer = Tracer(on_meta, not is_single, network.untraced, network.hooked)
        reads = _RawReads(model, tracer)
        try:
            with _attributes_kept(model), reads:
                tracer.trace(model, _settings_left_out(model, len(inputs)))
        except Exception as error:
            path = tracer.inside[-1] if tracer.inside else ""
            kind = type(model.get_submodule(path))
            why = first_line(error)
            if not path or kind is type(model) or kind.__module__.startswith("torch.nn"):
                told = f"cannot trace module {path or 'the network'!r} ({kind.__name__}): {why}"
                raise SlimError(f"{told}; its forward must not branch on tensor values (torch.fx)") from error
            network.untraced[kind] = why
            continue
        finally:
            _take_back(tracer.made)
        for path in reads.paths:
            network.whole.setdefault(path, "its tensors are read past the network's graph")
        return tracer


def _note_values(tracer: Tracer, model: nn.Module, original: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Run the graph on shapes alone; where an operation needs numbers, on a copy of the network with the example."""
    try:
        tracer.shapes.advance()
    except SlimError:
        real = _copied(original)
        remove_user_hooks_(real)
        real.train(model.training)
        for name, tensor in vars(model).items():  # What fx keeps there for the constants of the graph.
            if name.startswith(_CONSTANT):
                setattr(real, name, tensor)
        ShapePropagation(real, tracer.graph, [doubled(x) for x in inputs], is_complete=True).advance()


def doubled(x: Any) -> Any:
    """BatchNorm on [n, c] refuses a batch of 1 in train mode."""
    return torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() and x.shape[0] == 1 else x


def _hooked_paths(model: nn.Module) -> dict[str, str]:
    """Forward hooks and replaced forwards of modules below the root, which make them do more than their class."""
    changed = {}
    for path, module in model.named_modules():
        if "forward" in vars(module):
            changed[path] = "its replaced forward"
        for hooks, key in _user_hooks(module):
            changed[path] = f"forward hook {_hook_name(hooks[key])!r}"
    return {path: f"{what} may change what it reads or gives" for path, what in changed.items() if path}


def _hook_name(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # of a partial
    return getattr(hook, "__qualname__", type(hook).__name__)


def _user_hooks(module: nn.Module) -> list[tuple[dict[int, Any], int]]:
    return [
        (hooks, key)
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for key, hook in hooks.items()
        if not type(hook).__module__.startswith("torch.nn.utils")
    ]


def _listing(graph: fx.Graph) -> str:
    """The graph's operations as text; `training` flags that reach dropout do not make another network."""
    lines = []
    for n in graph.nodes:
        kwargs = {key: value for key, value in n.kwargs.items() if key != "training"}
        lines.append(f"{n.name} {n.op} {target_name(n)} {n.args} {kwargs}")
    return "\n".join(lines)


def _refuse_wrappers(model: nn.Module) -> None:
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    for hook in [hook for kind in kinds for hook in getattr(_every_module, f"_global_{kind}_hooks").values()]:
        if not (getattr(hook, "__module__", None) or "").startswith("torch."):  # Those only count or record.
            told = f"the global hook {_hook_name(hook)!r} may change what every layer reads or gives"
            raise SlimError(f"{told}; remove it to cut (remove() of the handle that registered it)")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"module {path!r}" if path else "the network"
            raise SlimError(f"{where} is TorchScript, whose code cannot be traced; give the module it was made from")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise SlimError(f"the network is wrapped in {type(model).__name__}; give what it wraps (model.module)")
    if "forward" in vars(model):  # torch.compile, and libraries that hook themselves in.
        raise SlimError("the network's forward was replaced after it was made; give the network without the wrapper")


def _copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    try:
        return copied(model, memo)
    except Exception as error:  # A weight that is itself a result of autograd; a lock or an open file.
        for path, module in model.named_modules():
            if made := [name for name, value in vars(module).items() if isinstance(value, Tensor) and value.grad_fn]:
                hooks = ", ".join(type(hook).__name__ for hook in module._forward_pre_hooks.values()) or "its forward"
                cure = (
                    "torch.nn.utils.prune.remove(layer, name), remove_weight_norm and their kin make plain parameters"
                )
                told = f"the network cannot be copied: {made[0]!r} of {path!r} is calculated by {hooks}"
                raise SlimError(f"{told}; {cure}") from error
        cure = "remove_weight_norm and its kin make plain parameters of reparametrised weights"
        told = f"the network cannot be copied: {first_line(error)}; remove what cannot ({cure})"
        raise SlimError(told) from error


def _sharing_modules(model: nn.Module) -> dict[str, str]:
    """Path of each module that shares a tensor with another -> the reason to keep it whole."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for path, _, name, tensor in own_tensors(model):
        owners.setdefault(id(tensor), []).append((path, full_name(path, name)))
    found: dict[str, str] = {}
    for sharing in owners.values():
        if len(sharing) > 1:
            names = " and ".join(repr(name) for _, name in sharing)
            for path, _ in sharing:
                found.setdefault(path, f"{names} are one tensor")
    return found


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module the attributes back that it had, but for the constants of a graph."""
    # What a forward stores while it is traced (`self.features = x`) are values to be, of no use to its next call.
    registered = ("_parameters", "_buffers", "_modules")
    before = [(m, dict(vars(m)), {name: dict(vars(m)[name]) for name in registered}) for m in model.modules()]
    try:
        yield
    finally:
        for module, attributes, inner in before:
            constants = {name: value for name, value in vars(module).items() if name.startswith(_CONSTANT)}
            vars(module).clear()
            vars(module).update(attributes | constants)
            for name, values in inner.items():
                vars(module)[name].clear()
                vars(module)[name].update(values)


def _take_back(made: list[ref[Any]]) -> None:
    """Remove from every dict and list (a table of coordinates per image size, say) the values made while tracing."""
    for generation in (None, 1, 2):
        if generation is not None:
            # Cycles hold values for a while, and a failed trace hangs in its own traceback. What is young goes first:
            # to look through all that a large program holds takes long.
            gc.collect(generation)
        if not any(value() is not None for value in made):
            return
    alive = [value for value in (each() for each in made) if value is not None]
    leaked = {id(value) for value in alive}
    for holder in gc.get_referrers(*alive):
        if holder is alive:
            continue
        if type(holder) is dict:
            for key in [key for key, value in holder.items() if id(value) in leaked]:
                del holder[key]
        elif type(holder) is list:
            holder[:] = [value for value in holder if id(value) not in leaked]


class _RawReads(TorchFunctionMode):
    """Notes which modules' parameters and buffers an operation reads past the tracer (`model.parameters()`, say).

    Attributes:
        paths: of their modules.
    """

    def __init__(self, model: nn.Module, tracer: Tracer) -> None:
        super().__init__()
        self.paths: set[str] = set()
        self._tracer = tracer
        self._owner = {id(tensor): path for path, _, _, tensor in own_tensors(model) if tensor.dim()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments, then do what was asked."""
        for value in () if self._tracer.is_running else pytree.tree_leaves((args, kwargs)):
            if id(value) in self._owner:
                self.paths.add(self._owner[id(value)])
        return func(*args, **(kwargs or {}))


def _settings_left_out(model: nn.Module, inputs: int) -> dict[str, Any] | None:
    """Parameters of `forward` that the example does not fill, at their defaults; None where there are none."""
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1 + inputs :]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    left = {p.name: p.default for p in parameters if p.kind in kinds and p.default is not inspect.Parameter.empty}
    plain = {name: value for name, value in left.items() if value is None or isinstance(value, (bool, int, float, str))}
    return plain or None
