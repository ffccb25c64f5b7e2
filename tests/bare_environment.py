"""Prove that the runtime needs only its own dependencies.

Imports every module of agesdk and runs the help of every command while the heavy packages are blocked, and
checks that ``import agesdk`` loads nothing. Run by ``tests/test_bare_runtime.py``, and by ``.ci/run`` in an
environment that has only the runtime's dependencies.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import io
import pkgutil
import sys

FORBIDDEN = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "onnx",
    "onnxscript",
    "tokenizers",
    "scipy",
    "PIL",
    "pandas",
    "matplotlib",
    "export",
    "training",
    "engines",
    "benchmarks",
)
COMMANDS = (
    [],
    ["age"],
    ["lifespan"],
    ["analyze"],
    ["demo"],
    ["doctor"],
    ["bundle"],
    ["bundle", "info"],
    ["bundle", "verify"],
)
HEAVY = ("numpy", "cv2", "onnxruntime", "tqdm")


class Blocker(importlib.abc.MetaPathFinder):
    """Makes the forbidden packages look as if they were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse a forbidden package, leave the others to the next finder."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is blocked in this test", name=name)


def main() -> None:
    """Import and run everything; raises on the first failure."""
    sys.meta_path.insert(0, Blocker())
    import agesdk
    import agesdk.cli

    for command in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            code = agesdk.cli.main([*command, "--help"])
        assert code == 0, command
        assert text.getvalue().startswith("usage: agesdk"), command
    loaded = [name for name in HEAVY if name in sys.modules]
    assert not loaded, f"import agesdk and --help load {loaded}"

    modules = [
        module.name
        for module in pkgutil.walk_packages(agesdk.__path__, "agesdk.")
        if module.name != "agesdk.__main__"
    ]
    for module in modules:
        importlib.import_module(module)
    for name in agesdk.__all__:
        getattr(agesdk, name)
    assert not [name for name in FORBIDDEN if name in sys.modules]
    print(f"{len(modules)} modules, {len(COMMANDS)} commands")


if __name__ == "__main__":
    main()
