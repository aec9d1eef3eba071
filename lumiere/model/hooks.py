"""How the temporal layers get into a base: hooks that act only within a call of their wrapper."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from lumiere.model.placement import KINDS, to_rows


class Call(NamedTuple):
    """One forward pass of a wrapper, which is known to its hooks by its token."""

    lumiere: nn.Module
    token: object
    batch_size: int
    rows: int  # of conditioning: one per clip or one per frame
    given: Tensor | None  # given channels, (b t) c h w
    embedding: Tensor | None = None  # of timestep and text, (b d), for layers that take it


class _Thread(threading.local):
    """The call that this thread is in.

    State of a call cannot live on the base, which other wrappers and threads use at the same time, nor on the
    wrapper. Hooks act only inside a call of the wrapper they belong to, in the thread of that call. How many
    frames there are at a level is no state: it is the rows of the features over the clips. (torch.compile
    follows a thread-local, but not a context variable.)
    """

    call: Call | None = None


_thread = _Thread()


@contextmanager
def in_call(call: Call | None) -> Iterator[None]:
    before, _thread.call = _thread.call, call
    try:
        yield
    finally:
        _thread.call = before


def this_call() -> Call | None:
    """The call that this thread is in."""
    return _thread.call


def attach(lumiere: nn.Module, token: object) -> list[RemovableHandle]:
    """Hooks the layers of a `Lumiere` onto its base; the hooks hold no reference to it."""
    base, places, handles = lumiere.model, lumiere.places, []

    def before(name: str, hook: Callable, **kwargs) -> None:
        handles.append(base.get_submodule(name).register_forward_pre_hook(partial(hook, **kwargs)))

    def after(name: str, hook: Callable, **kwargs) -> None:
        handles.append(base.get_submodule(name).register_forward_hook(partial(hook, **kwargs)))

    if lumiere.given_channels:  # before a layer that follows the same module
        after(lumiere.input_module_name, _show_given, token=token)
    for kind in KINDS:
        for index, name in enumerate(getattr(places, kind)):
            after(name, _insert, token=token, kind=kind, index=index)
    if lumiere.embedding_width:
        for index, name in enumerate(places.embeddings):
            before(name, _adapt_embedding, token=token, index=index)
    for name in places.conditioned:
        hook = partial(_match, token=token)
        handles.append(base.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True))
    if lumiere.per_clip:
        before("time_proj", _timesteps_per_clip, token=token)
    return handles


def _current(token: object) -> Call | None:
    call = _thread.call
    return call if call is not None and call.token is token else None


def _insert(module: nn.Module, args: tuple, output, *, token: object, kind: str, index: int):
    if call := _current(token):
        layer = getattr(call.lumiere, kind)[index]
        told = {"embedding": call.embedding} if getattr(layer, "embedding_dim", 0) else {}
        return change_first(output, lambda x: layer(x, batch_size=call.batch_size, **told))


def _show_given(module: nn.Module, args: tuple, output: Tensor, *, token: object):
    if (call := _current(token)) and call.given is not None:
        return output + call.lumiere.conv_in(call.given)


def _adapt_embedding(module: nn.Module, args: tuple, *, token: object, index: int):
    if call := _current(token):
        return (call.lumiere.embeddings[index](args[0]),)


def _match(module: nn.Module, args: tuple, kwargs: dict, *, token: object):
    if call := _current(token):
        features = args[0] if args else next(iter(kwargs.values()))
        fit = partial(to_rows, batch_size=call.batch_size, rows=features.shape[0])
        return tree_map_only(Tensor, fit, (args, kwargs))


def _timesteps_per_clip(module: nn.Module, args: tuple, *, token: object):
    if call := _current(token):
        return (to_rows(args[0], call.batch_size, call.rows),)


def change_first(output, change: Callable[[Tensor], Tensor]):
    """Applies `change` to the tensor, the first of a tuple, or the `sample` of an output of diffusers."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return type(output)(sample=change(output.sample))
