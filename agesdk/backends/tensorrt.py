"""Native TensorRT engines: `tensorrt` 10 and 11 and `tensorrt_rtx` through the same code.

Engines come from the cache that ``python -m engines build`` fills; nothing is built here. All engines of a
process share one stream, so they run in the order of the calls, and one piece of activation memory, since
only one runs at a time. For every shape an engine keeps a context, one allocation for its inputs and outputs,
and after the first run a CUDA graph, so that a step is a few copies and one launch. `MAX_SHAPES` are kept.

What needs no GPU (key, profile, shapes, buffers, errors) stands in `engine_cache`, `engine_key`, `trt_plan`
and `trt_library`; here is what calls the device.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agesdk import atomic
from agesdk.backends import cuda
from agesdk.backends.base import Tensor, check_feeds, check_tensors, mix_guidance
from agesdk.backends.trt_library import (
    NUMPY_OF_TENSORRT,
    Library,
    LogKeeper,
    failure,
    import_library,
    sizes_of,
)
from agesdk.backends.trt_plan import (
    BufferPlan,
    Region,
    axis_sizes,
    choose_profile,
    plan_buffers,
    refuse_int8,
    widest,
)
from agesdk.bundle import Bundle
from agesdk.engine_cache import CacheEntry, EngineCache
from agesdk.engine_key import EngineRequest, RuntimeName, graph_hash, host_platform
from agesdk.errors import AgeSDKError, BackendError

if TYPE_CHECKING:
    import tensorrt as trt

MAX_SHAPES = 8
"""Shapes of one engine that are kept ready; the least recently used is dropped."""

logger = logging.getLogger(__name__)


class TensorrtEngine:
    """One component as a native engine; see `agesdk.backends.load_engine`.

    Outputs are `DeviceTensor`; they hold until the engine runs again with the same shape.

    Parameters
    ----------
    runtime:
        The library to use.
    cache:
        Where engines lie; None takes the user's.

    Raises
    ------
    BackendError
        The library, cuda-bindings, the driver or a GPU is missing; no engine fits, with the command that
        builds one; it does not load; or the graph is int8.
    """

    def __init__(
        self, bundle: Bundle, component: str, runtime: RuntimeName, cache: EngineCache | None = None
    ) -> None:
        stated = bundle.component(component)
        refuse_int8(stated)
        library = import_library(runtime)
        gpu = cuda.current_gpu()
        request = device_request(bundle, component, library, gpu)
        cache = cache or EngineCache()
        self._device = _device(library.name)
        with cache.open(request) as (entry, content):
            self._engine = self._device.deserialize(content, component)
        self._profiles = entry.record.key.profiles
        self._component = dataclasses.replace(stated, profile=widest(self._profiles))
        self.name = component
        self.inputs = stated.inputs
        self.outputs = stated.outputs
        self.profile = self._component.profile
        self._check_tensors(entry)
        jit_path = cache.jit_path(entry, gpu.name, gpu.driver)
        self._contexts = _ContextFactory(self._device, self._engine, jit_path)
        self._bound: OrderedDict[tuple[tuple[str, int], ...], _BoundShape] = OrderedDict()

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        described = {name: _describe(tensor) for name, tensor in feeds.items()}
        check_feeds(self._component, described)
        sizes = axis_sizes(self.inputs, {name: shape for name, (_, shape) in described.items()})
        with self._device.lock:
            bound = self._bind(sizes)
            for spec in self.inputs:
                bound.set_input(spec.name, feeds[spec.name])
            bound.execute()
            return {spec.name: bound.tensor(spec.name) for spec in self.outputs}

    def to_device(self, array: np.ndarray) -> DeviceTensor:
        array = np.ascontiguousarray(array)
        with self._device.lock:
            arena = _Arena(array.nbytes)
            self._device.stream.upload(arena.address, array)
        return DeviceTensor(arena, Region("input", array.dtype.name, array.shape, 0, array.nbytes))

    def guide(self, halves: Tensor, scale: float) -> Tensor:
        """On the host: latents are small, and no library of kernels is needed for it."""
        return mix_guidance(self.to_host(halves), scale)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        if isinstance(tensor, np.ndarray):
            return tensor
        array = np.empty(tensor.region.shape, tensor.region.dtype)
        with self._device.lock:
            self._device.stream.download(array, tensor.address())
        return array

    def _bind(self, sizes: Mapping[str, int]) -> _BoundShape:
        key = tuple(sorted(sizes.items()))
        if key in self._bound:
            self._bound.move_to_end(key)
            return self._bound[key]
        index = choose_profile(self.name, self._profiles, sizes)
        shapes = {
            spec.name: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape)
            for spec in self.inputs
        }
        context = self._contexts.make(index, shapes, self.name)
        for spec in self.outputs:
            shapes[spec.name] = sizes_of(context.get_tensor_shape(spec.name))
        plan = plan_buffers((*self.inputs, *self.outputs), shapes)
        if len(self._bound) >= MAX_SHAPES:
            self._device.stream.wait()
            self._bound.popitem(last=False)
        self._bound[key] = _BoundShape(self._device, self._contexts, context, plan, self.name)
        return self._bound[key]

    def _check_tensors(self, entry: CacheEntry) -> None:
        mode = self._device.trt.api.TensorIOMode
        found: dict[Any, dict[str, tuple[str, tuple[int, ...]]]] = {mode.INPUT: {}, mode.OUTPUT: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = NUMPY_OF_TENSORRT.get(self._engine.get_tensor_dtype(name).name, "unknown")
            shape = sizes_of(self._engine.get_tensor_shape(name))
            found[self._engine.get_tensor_mode(name)][name] = (dtype, shape)
        where = f"the engine {entry.engine.name}"
        check_tensors(where, "inputs", self.inputs, found[mode.INPUT])
        check_tensors(where, "outputs", self.outputs, found[mode.OUTPUT])


class DeviceTensor:
    """A tensor on the GPU: a region of an engine's memory that the engine's next run overwrites."""

    def __init__(self, arena: _Arena, region: Region) -> None:
        self._arena = arena
        self._generation = arena.generation
        self.region = region

    def address(self) -> int:
        """The device address; `BackendError` once the content was overwritten."""
        if self._arena.generation != self._generation:
            raise BackendError(
                f'The tensor "{self.region.name}" was overwritten',
                "its engine has run again with the same shape",
                "Bring it to the host before that",
            )
        return self._arena.address + self.region.offset


class _Arena:
    """An allocation that lives as long as a tensor in it does. ``generation`` counts the runs."""

    def __init__(self, size: int) -> None:
        self.address = cuda.allocate(size)
        self.generation = 0
        weakref.finalize(self, cuda.free, self.address).atexit = False


class _Device:
    """What all engines of a library share: its runtime and log, the stream, the activation memory, a lock."""

    def __init__(self, library: Library) -> None:
        self.trt = library
        self.log = LogKeeper(library)
        self.lock = threading.RLock()
        self.stream = cuda.Stream()
        self._runtime: trt.Runtime = library.api.Runtime(self.log.sink)
        self.workspace = 0
        self.workspace_size = 0

    def deserialize(self, content: Any, component: str) -> trt.ICudaEngine:
        with self.lock:
            self.log.clear()
            engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise failure(f'The engine of "{component}" does not load', self.log.errors)
            if engine.device_memory_size_v2 > self.workspace_size:
                self._grow(engine.device_memory_size_v2)
            return engine

    def _grow(self, size: int) -> None:
        """A larger workspace. Bound shapes see the new address before they run again."""
        self.stream.wait()
        if self.workspace:
            cuda.free(self.workspace)
            self.workspace = self.workspace_size = 0
        self.workspace = cuda.allocate(size)
        self.workspace_size = size


@functools.cache
def _device(runtime: RuntimeName) -> _Device:
    return _Device(import_library(runtime))


class _ContextFactory:
    """Execution contexts of one engine; with TensorRT-RTX they share what it compiles at run time."""

    def __init__(self, device: _Device, engine: trt.ICudaEngine, jit_path: Path) -> None:
        self._device = device
        self._engine = engine
        self._jit_path = jit_path
        self._jit_size = -1
        api = device.trt.api
        strategy = api.ExecutionContextAllocationStrategy.USER_MANAGED
        self._how = strategy
        self._jit_cache: Any = None
        if device.trt.name == "tensorrt-rtx":
            config: Any = engine.create_runtime_config()  # TensorRT's stubs lack what is TensorRT-RTX's
            config.set_execution_context_allocation_strategy(strategy)
            # Kernels for exactly the shapes that run, before the first result, so that a captured graph
            # holds them and not their stand-ins.
            config.dynamic_shapes_kernel_specialization_strategy = (
                api.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self._jit_cache = config.create_runtime_cache()
            if jit_path.is_file() and not self._jit_cache.deserialize(jit_path.read_bytes()):
                logger.info("%s belongs to another driver or release; it is made again", jit_path)
            config.set_runtime_cache(self._jit_cache)
            self._how = config

    def make(self, profile: int, shapes: Mapping[str, tuple[int, ...]], name: str) -> trt.IExecutionContext:
        """A context with its profile and input shapes set."""
        self._device.log.clear()
        context: trt.IExecutionContext | None = self._engine.create_execution_context(self._how)
        ready = context is not None and context.set_optimization_profile_async(
            profile, self._device.stream.handle
        )
        if context is None or not ready:
            raise failure(f'The engine of "{name}" can not be run', self._device.log.errors)
        for tensor, shape in shapes.items():
            if not context.set_input_shape(tensor, shape):
                raise failure(
                    f'The engine of "{name}" refuses the shape of "{tensor}"', self._device.log.errors
                )
        return context

    def keep_compiled(self) -> None:
        """Write what TensorRT-RTX has compiled, if it is more than what was written."""
        if self._jit_cache is None:
            return
        content = bytes(self._jit_cache.serialize())
        if len(content) == self._jit_size:
            return
        self._jit_size = len(content)
        try:
            atomic.write_bytes(self._jit_path, content)
        except AgeSDKError as error:
            logger.warning("the next start compiles again: %s", error)


class _BoundShape:
    """A context with its tensors in place, ready to run one shape again and again."""

    def __init__(
        self,
        device: _Device,
        contexts: _ContextFactory,
        context: trt.IExecutionContext,
        plan: BufferPlan,
        name: str,
    ) -> None:
        self._device = device
        self._contexts = contexts
        self._context = context
        self._plan = plan
        self._name = name
        self._arena = _Arena(plan.total)
        self._workspace = 0
        self._runs = 0
        self._graph: cuda.Graph | None = None
        for region in plan.regions.values():
            if not context.set_tensor_address(region.name, self._arena.address + region.offset):
                raise failure(
                    f'The engine of "{name}" refuses the address of "{region.name}"', device.log.errors
                )

    def set_input(self, name: str, tensor: Tensor) -> None:
        region = self._plan.regions[name]
        address = self._arena.address + region.offset
        if isinstance(tensor, np.ndarray):
            self._device.stream.upload(address, np.ascontiguousarray(tensor))
        else:
            self._device.stream.copy(address, tensor.address(), region.size)

    def execute(self) -> None:
        """Run: plainly the first time, in which TensorRT sets itself up; from then on as a CUDA graph."""
        stream = self._device.stream
        if self._workspace != self._device.workspace:
            self._workspace = self._device.workspace
            self._context.set_device_memory(self._workspace, self._device.workspace_size)
            self._graph = None
            self._runs = 0
        self._arena.generation += 1
        if self._runs == 0:
            self._enqueue()
            self._contexts.keep_compiled()
        else:
            if self._graph is None and self._capturable():
                self._graph = stream.capture(self._enqueue)
            if self._graph is not None:
                stream.launch(self._graph)
            else:
                self._enqueue()
        self._runs += 1

    def tensor(self, name: str) -> DeviceTensor:
        return DeviceTensor(self._arena, self._plan.regions[name])

    def _enqueue(self) -> None:
        self._device.log.clear()
        if not self._context.execute_async_v3(self._device.stream.handle):
            raise failure(f'Running the engine of "{self._name}" failed', self._device.log.errors)

    def _capturable(self) -> bool:
        """TensorRT-RTX can tell that a shape needs work on the host in between; TensorRT has no such call."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._device.stream.handle))


def device_request(bundle: Bundle, component: str, library: Library, gpu: cuda.Gpu) -> EngineRequest:
    """What this machine needs of an engine."""
    return EngineRequest(
        bundle_path=bundle.path,
        bundle=bundle.manifest.name,
        component=component,
        precision=bundle.component(component).precision,
        graph=graph_hash(bundle, component),
        bundle_profile=bundle.component(component).profile,
        runtime=library.name,
        runtime_version=library.version,
        platform=host_platform(),
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
        driver=gpu.driver,
    )


def _describe(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.name, tensor.shape
    if isinstance(tensor, DeviceTensor):
        return tensor.region.dtype, tensor.region.shape
    raise BackendError(
        f"A feed is a {type(tensor).__name__}.", "Feeds are numpy arrays or this backend's tensors."
    )
