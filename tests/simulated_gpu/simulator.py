"""A simulated GPU: torch's own CUDA code over a stand-in for CUDA's runtime, kernels on the host.

torch's C++ runs unchanged: streams, the caching allocator and the private pools of graphs, pinned
memory, autograd's device thread, autocast, ``torch.cuda.CUDAGraph``. Device memory is host memory,
so a dispatch mode computes each operation with the CPU's kernel where the operands lie.

A capture is what it is on a GPU: operations are recorded by address, with their scalars frozen, a
replay computes them again, and nothing that the capture wrote stays. So a stale pointer, a frozen
learning rate or memory that is used twice shows as a wrong number.

Limits: no time means anything, and nothing is asynchronous, so that a missing order of streams
cannot show. Rounding is the CPU's. There is one device, one capture at a time, no NCCL, no cuDNN.
"""

import ctypes
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.simulated_gpu.build import HERE, ROOT, RUNTIME

aten = torch.ops.aten
IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd
Action = Callable[[], Any]

# torch's own code for these needs no kernel.
NATIVE = {
    *("empty", "empty_strided", "empty_like", "empty_permuted", "new_empty", "new_empty_strided"),
    *("record_stream", "is_pinned", "pin_memory", "_pin_memory", "detach", "lift_fresh"),
    *("set_", "resize_", "_local_scalar_dense"),
}
# The sizes of their results are known on the device alone.
WAITING = {
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("equal", "nms", "is_nonzero", "repeat_interleave"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# What these write is not in their schemas: the running statistics, arguments 3 and 4.
HIDDEN_WRITES = {"native_batch_norm", "cudnn_batch_norm"}
# Parts of the names of operations that may be nondeterministic on a GPU, of
# ``torch.use_deterministic_algorithms``. Others cannot all be asked: cuBLAS and NVRTC need a GPU.
ASKED = (
    *("loss", "pool", "upsample", "pad", "scatter", "index", "put", "gather", "cumsum", "sort"),
    *("embedding", "grid", "histc", "median", "kthvalue"),
)


class SimulatedGPU(TorchDispatchMode):
    """Compute every operation on CUDA tensors on the host, and count what a GPU would notice.

    ``events`` counts (kind, place) while :meth:`watch` is active: ``WAIT``, ``PAGEABLE``,
    ``FORBIDDEN`` (:file:`runtime.c`), and ``CAPTURE`` and ``REPLAY`` of graphs. A place is the
    innermost function of the project, as ``file:function``.

    ``asks_kernels``: call torch's own CUDA code of the operations in ASKED as well, on memory that
    nobody reads, so that it refuses what it refuses on a GPU
    (``torch.use_deterministic_algorithms``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: Counter[tuple[str, str]] = Counter()
        self.watching = self.asks_kernels = False
        self._graphs: dict[int, list[Action]] = {}
        self._recording: _Recording | None = None
        kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
        self._callback = kind(self._on_event)  # must live as long as the library calls it

    def start(self) -> None:
        """Take what is sent to a GPU, for the rest of the process."""
        ctypes.CDLL(os.environ[RUNTIME]).simulated_callback(self._callback)
        self.__enter__()

    @contextmanager
    def watch(self) -> Iterator[Counter[tuple[str, str]]]:
        """Count events from here on in a new counter, to the end of the context."""
        before = self.watching, self.events
        self.watching, self.events = True, Counter()
        try:
            yield self.events
        finally:
            self.watching, self.events = before

    def _note(self, kind: str) -> None:
        if self.watching:
            self.events[kind, _place()] += 1

    def _on_event(self, text: bytes) -> None:
        try:
            what, _, number = text.decode().rpartition(" ")
            if (what, number) == ("capture", "begins"):
                self._note("CAPTURE")
                self._recording = _Recording()
            elif what == "capture ends":
                assert self._recording is not None
                self._graphs[int(number)] = self._recording.end()
                self._recording = None
            elif what == "graph launch":
                self._note("REPLAY")
                with torch._C._DisableTorchDispatch(), torch._C._AutoDispatchBelowAutograd():
                    for act in self._graphs[int(number)]:
                        act()
            elif text != b"KERNEL":
                self._note(text.decode())
        except BaseException:  # an exception cannot cross C
            traceback.print_exc()

    @property
    def _capture(self) -> "_Recording | None":
        """The recording, if this thread's current stream is the captured one."""
        return self._recording if torch.cuda.is_current_stream_capturing() else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = list(_leaves((*args, *kwargs.values())))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if not any(t.is_cuda for t in tensors) and not any(
            isinstance(x, torch.device) and x.type == "cuda" for x in leaves
        ):
            return func(*args, **kwargs)
        name, is_composite, is_native = _about(func)
        if is_composite:
            with self:  # inference mode does not take it apart; by C++, whose bits are the CPU's
                return func._op_dk(IMPLICIT, *args, **kwargs)
        if is_native:
            return func(*args, **kwargs)
        if name == "copy_":
            waits_not = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            self._copy(args[0], args[1], waits_not)
            return args[0]
        if name == "_to_copy":
            return self._to_copy(args[0], **kwargs)
        self._check(func, name, args, tensors)
        if self.asks_kernels and any(part in name for part in ASKED):
            _ask_kernel(func, args, kwargs)
        return self._compute(func, name, args, kwargs)

    def _check(self, func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
        """Refuse operands on two devices; note a result that the host waits for."""
        if any(not t.is_cuda and t.dim() for t in tensors):
            where = [(tuple(t.shape), str(t.device)) for t in tensors]
            raise RuntimeError(f"{func}: expected all tensors on one device, got {where}")
        waits = name in WAITING
        if name in INDEXING:  # by a mask, unless one number goes to all places
            masks = any(i is not None and i.dtype is torch.bool for i in args[1])
            waits = masks and (name == "index" or args[2].dim() > 0)
        if waits:
            if self._capture is not None:
                raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
            self._note(f"WAIT {name}")

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        capture = self._capture
        given: dict[int, Tensor] = {}  # the operands by their views

        def down(x: Any) -> Any:
            if isinstance(x, Tensor):
                view = on_host(x) if x.is_cuda else x.clone() if capture else x
                given[id(view)] = x
                return view
            if isinstance(x, torch.device):
                return torch.device("cpu")
            return None if isinstance(x, torch.Generator) else x

        views = _map(down, args)
        named = {name: _map(down, value) for name, value in kwargs.items()}
        named.pop("pin_memory", None)
        if capture is not None:
            places = {a.name: views[i] for i, a in enumerate(func._schema.arguments[: len(views)])}
            written = [(places | named)[a.name] for a in func._schema.arguments if _is_written(a)]
            hidden = list(views[3:5]) if name in HIDDEN_WRITES else []
            capture.keep(x for x in _leaves([written, hidden]) if isinstance(x, Tensor))
        out = func(*views, **named)
        made: list[Tensor] = []

        def up(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if id(x) in given:
                return given[id(x)]
            there = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
            made.append(on_host(there))
            if capture is not None:
                capture.keep(made[-1:])
            made[-1].copy_(x)
            return there

        result = tuple(map(up, out)) if isinstance(out, tuple) else _map(up, out)
        if capture is not None:
            known = set(given)

            def again() -> None:
                news = [x for x in _leaves([func(*views, **named)]) if isinstance(x, Tensor)]
                fresh = [x for x in news if id(x) not in known]
                for view, new in zip(made, fresh, strict=True):
                    view.copy_(new)

            capture.actions.append(again)
        return result

    def _to_copy(self, source: Tensor, **kwargs: Any) -> Tensor:
        made = torch.empty_like(
            source,
            dtype=kwargs.get("dtype"),
            device=kwargs.get("device"),
            pin_memory=kwargs.get("pin_memory") or False,
            memory_format=kwargs.get("memory_format") or torch.preserve_format,
        )
        self._copy(made, source, kwargs.get("non_blocking", False))
        return made

    def _copy(self, to: Tensor, source: Tensor, non_blocking: bool) -> None:
        capture = self._capture
        if to.device == source.device:
            new, old = on_host(to), on_host(source)
            if capture is not None:
                capture.keep([new])
                capture.actions.append(lambda: new.copy_(old))
            new.copy_(old)
        elif to.numel():
            if capture is not None and not (to.is_cuda and source.is_pinned()):
                raise RuntimeError("copy_: operation not permitted when stream is capturing")
            _copy_between_devices(to, source, non_blocking)
            if capture is not None:
                new, old = on_host(to), source
                capture.actions.append(lambda: new.copy_(old))


class _Recording:
    """The operations of a capture, and what memory held before them."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._before: dict[tuple[int, int], bytes] = {}
        self._random = torch.get_rng_state()

    def keep(self, written: Any) -> None:
        """Keep what the memory of host tensors holds, before the first write to it."""
        for tensor in written:
            storage = tensor.untyped_storage()
            place = storage.data_ptr(), storage.nbytes()
            if place not in self._before:
                self._before[place] = ctypes.string_at(*place)

    def end(self) -> list[Action]:
        """Undo everything, as a capture computes nothing; return the actions."""
        for (address, _), content in reversed(self._before.items()):
            ctypes.memmove(address, content, len(content))
        torch.set_rng_state(self._random)
        return self.actions


def on_host(tensor: Tensor) -> Tensor:
    """Return a CPU tensor over the memory of ``tensor``, which it does not own."""
    if not tensor.is_cuda:
        return tensor
    storage = tensor.untyped_storage()
    same = torch._C._construct_storage_from_data_pointer(
        storage.data_ptr(), torch.device("cpu"), storage.nbytes()
    )
    view = torch.empty(0, dtype=tensor.dtype, device="cpu")
    view.set_(same, tensor.storage_offset(), tensor.shape, tensor.stride())
    return view


def _copy_between_devices(to: Tensor, source: Tensor, non_blocking: bool) -> None:
    """Copy by torch's own code, so that the runtime sees what kind of copy it is.

    Its kernels would change type and strides; here that happens on the host, before or after.
    """
    alike = to.dtype == source.dtype and to.shape == source.shape
    if not (alike and to.stride() == source.stride() and _is_dense(source)):
        pinned = source.is_cpu and source.is_pinned() and source.is_contiguous()
        packed = torch.empty(to.shape, dtype=to.dtype, device=source.device, pin_memory=pinned)
        on_host(packed).copy_(on_host(source))
        source = packed
    there = to
    if to.stride() != source.stride() or not _is_dense(to):
        there = torch.empty(to.shape, dtype=to.dtype, device=to.device)
    count = (to.numel(),)
    aten.copy_.default(there.as_strided(count, (1,)), source.as_strided(count, (1,)), non_blocking)
    if there is not to:
        on_host(to).copy_(on_host(there))


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill a block of memory, in some order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


@cache
def _about(func: Any) -> tuple[str, bool, bool]:
    """Return an operation's name, whether it consists of others, and whether it has no kernel."""
    name, returns = func._schema.name.split("::")[-1], func._schema.returns
    in_cpp = torch._C._dispatch_has_kernel_for_dispatch_key
    composite = func.namespace == "aten" and in_cpp(func.name(), IMPLICIT)
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return name, composite, name in NATIVE or is_view


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what nested lists and tuples hold."""
    for item in value:
        if isinstance(item, list | tuple):
            yield from _leaves(item)
        else:
            yield item


def _map(act: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``act`` to what nested lists and tuples hold."""
    if isinstance(value, list | tuple):
        return [_map(act, item) for item in value]
    return act(value)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _ask_kernel(func: Any, args: Any, kwargs: Any) -> None:
    """Call torch's CUDA code on copies of the operands; raise what it refuses as nondeterministic.

    Other errors are of the missing kernels.
    """

    def scratch(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_cuda:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
        return x

    try:
        func(*_map(scratch, args), **{name: _map(scratch, x) for name, x in kwargs.items()})
    except RuntimeError as error:
        if "deterministic" in str(error):
            raise


def _place() -> str:
    """Return the innermost function of the project, as ``file:function``."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(f"{ROOT}{os.sep}") and not path.startswith(f"{HERE}{os.sep}simulator"):
            return f"{os.path.relpath(path, ROOT)}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "another thread"
