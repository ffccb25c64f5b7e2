"""Packaging of agesdk. Only the runtime is installed; training, export and benchmarks run from a
checkout.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

VERSION = re.search(
    r'^__version__ = "([^"]+)"$', (HERE / "agesdk/__init__.py").read_text("utf-8"), re.M
).group(1)

RUNTIME = ["numpy>=1.26", "opencv-python-headless>=4.8", "onnxruntime>=1.18", "tqdm>=4.60"]

# tokenizers pulls in huggingface_hub and an HTTP client (about 30 MB); only bundles with a text encoder need
# it.
TEXT = ["tokenizers>=0.20"]
MODELS = ["torch>=2.6", "diffusers>=0.33", "transformers>=4.48", "safetensors>=0.4", *TEXT]
EXPORT = [*MODELS, "onnx>=1.18", "onnx-ir>=0.1", "onnxscript>=0.5", "PyYAML>=6.0", "tflite>=2.10"]
TRAIN = [*MODELS, "accelerate>=1.0", "tensorboard>=2.14", "PyYAML>=6.0", "scipy>=1.11"]
# TensorRT-RTX comes for x86-64 Linux and Windows; elsewhere TensorRT comes with the system (JetPack).
X86 = "platform_machine in 'x86_64 AMD64' and sys_platform in 'linux win32'"
ENGINES = [f"cuda-bindings>=12.6; {X86}", f"tensorrt-rtx>=1.4; {X86}"]
# What agesdk is measured against, beside diffusers.
PEERS = ["openvino>=2024.4"]
CHECKS = [
    "hypothesis>=6.100",
    "matplotlib>=3.8",
    "mypy>=1.15",
    # Only CLIP's byte-pair vocabulary in it is used, for tests of tokenizers; unlike clip-anytorch, which has
    # the same file, it does not pull torchvision.
    "openai-clip>=1.0.1",
    "pillow>=10.3",
    "psutil>=5.9",
    "pytest>=8.0",
    "rich>=13.0",
    "ruff>=0.9",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="agesdk",
    version=VERSION,
    description="Age a face zone by zone, on one's own machine: a lean runtime over typed ONNX bundles",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=["agesdk", "agesdk.*"]),
    package_data={"agesdk": ["py.typed", "data/*", "bundles/**/*"]},
    install_requires=RUNTIME,
    extras_require={
        "text": TEXT,
        "export": EXPORT,
        "train": TRAIN,
        # onnxruntime and onnxruntime-gpu share one module: uninstall onnxruntime first, then install this
        # extra.
        "gpu": ["onnxruntime-gpu>=1.18"],
        "tensorrt-rtx": ENGINES,
        "peers": PEERS,
        "dev": sorted({*EXPORT, *TRAIN, *ENGINES, *CHECKS}),
    },
    entry_points={"console_scripts": ["agesdk = agesdk.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
)
