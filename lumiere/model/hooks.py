"""Hooks that run the temporal layers inside a base UNet, active only during a call of their wrapper."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from lumiere.model.placement import KINDS, to_rows

if TYPE_CHECKING:
    from lumiere.model.lumiere import Lumiere

Output = Any  # of a base and of its modules: a tensor, a tuple that begins with one, an object with `.sample`


class Call(NamedTuple):
    """State of one forward pass of a wrapper; its hooks recognise it by its token."""

    lumiere: "Lumiere"
    token: object
    batch_size: int
    rows: int  # rows of conditioning: one per clip or one per frame
    cond: Tensor | None  # conditioning channels, (b t) c h w
    embedding: Tensor | None = None  # timestep and text, (b d), for layers with an embedding_dim


class _Thread(threading.local):
    """Holds the current call of this thread.

    Other wrappers and threads use the base at the same time, and several threads may use one wrapper. Neither
    can store the state of a call. The number of frames at a level is not stored: it is the number of feature
    rows divided by the number of clips. torch.compile supports thread-locals, but not context variables.
    """

    call: Call | None = None


_thread = _Thread()


@contextmanager
def in_call(call: Call | None) -> Iterator[None]:
    """Sets the current call of this thread within a `with` block."""
    before, _thread.call = _thread.call, call
    try:
        yield
    finally:
        _thread.call = before


def this_call() -> Call | None:
    """Returns the current call of this thread, or None outside a forward pass."""
    return _thread.call


def attach(
    lumiere: "Lumiere", token: object
) -> tuple[dict[str, weakref.ref[nn.Module]], list[RemovableHandle]]:
    """Registers the layers of a `Lumiere` as hooks on its base.

    Args:
        lumiere: the wrapper, to which the hooks keep no reference.
        token: identifies the calls in which the hooks are active.

    Returns:
        The hooked modules by name, and handles that remove the hooks.
    """
    places = lumiere.places
    modules: dict[str, weakref.ref[nn.Module]] = {}
    handles: list[RemovableHandle] = []

    def find(name: str) -> nn.Module:
        module = lumiere.model.get_submodule(name)
        modules[name] = weakref.ref(module)
        return module

    def before(name: str, hook: Callable[..., Any], **kwargs: object) -> None:
        handles.append(find(name).register_forward_pre_hook(partial(hook, **kwargs)))

    def after(name: str, hook: Callable[..., Any], **kwargs: object) -> None:
        handles.append(find(name).register_forward_hook(partial(hook, **kwargs)))

    if lumiere.cond_channels:  # registered before a temporal layer at the same module
        after(lumiere.input_module_name, _add_cond, token=token)
    for kind in KINDS:
        for index, name in enumerate(getattr(places, kind)):
            after(name, _insert, token=token, kind=kind, index=index)
    if lumiere.embedding_width:
        for index, name in enumerate(places.embeddings):
            before(name, _adapt_embedding, token=token, index=index)
    for name in places.conditioned:
        hook = partial(_match, token=token)
        handles.append(find(name).register_forward_pre_hook(hook, with_kwargs=True))
    if lumiere.per_clip:
        before("time_proj", _timesteps_per_clip, token=token)
    return modules, handles


def detach(handles: list[RemovableHandle]) -> None:
    """Removes hooks."""
    for handle in handles:
        handle.remove()


def _current(token: object) -> Call | None:
    call = _thread.call
    return call if call is not None and call.token is token else None


def _insert(
    module: nn.Module, args: tuple, output: Output, *, token: object, kind: str, index: int
) -> Output | None:
    if call := _current(token):
        layer = getattr(call.lumiere, kind)[index]
        more = {"embedding": call.embedding} if getattr(layer, "embedding_dim", 0) else {}
        return change_first(output, lambda x: layer(x, batch_size=call.batch_size, **more))
    return None


def _add_cond(module: nn.Module, args: tuple, output: Tensor, *, token: object) -> Tensor | None:
    if (call := _current(token)) and call.cond is not None:
        assert call.lumiere.conv_in is not None, "only a model with conditioning channels receives them"
        return output + call.lumiere.conv_in(call.cond)
    return None


def _adapt_embedding(module: nn.Module, args: tuple, *, token: object, index: int) -> tuple[Tensor] | None:
    if call := _current(token):
        return (call.lumiere.embeddings[index](args[0]),)
    return None


def _match(module: nn.Module, args: tuple, kwargs: dict, *, token: object) -> tuple[tuple, dict] | None:
    if call := _current(token):
        features = args[0] if args else next(iter(kwargs.values()))
        fit = partial(to_rows, batch_size=call.batch_size, rows=features.shape[0])
        return tree_map_only(Tensor, fit, (args, kwargs))
    return None


def _timesteps_per_clip(module: nn.Module, args: tuple, *, token: object) -> tuple[Tensor] | None:
    if call := _current(token):
        return (to_rows(args[0], call.batch_size, call.rows),)
    return None


def change_first(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    """Changes a tensor, the first element of a tuple, or the `sample` of a diffusers output.

    Args:
        output: the tensor, tuple or diffusers output.
        change: returns the new tensor.
    """
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return type(output)(sample=change(output.sample))
