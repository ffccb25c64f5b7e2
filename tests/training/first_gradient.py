"""The gradient of a run's first batch; under torchrun a script: ``first_gradient.py CONFIG.yaml OUT.pt``."""

from __future__ import annotations

import sys
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from training.config import config_from_dict
from training.ldla import Trainer
from training.validation import prepare_batch


def first_gradient(document: dict[str, Any]) -> tuple[dict[str, torch.Tensor | None], int]:
    """Gradient by parameter name, averaged over the processes, and the number of processes."""
    torch.set_num_threads(1)
    trainer = Trainer(config_from_dict(document), Accelerator(cpu=True))
    # Layers that start at zero would hide the gradient of all layers before them.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.models.objective.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    batch = prepare_batch(next(trainer._batches()), trainer.models, trainer.accelerator.device, "sample")
    terms, _ = trainer.wrapped(batch, 0, True)
    trainer.accelerator.backward(terms["total"])
    gradient = {name: parameter.grad for name, parameter in trainer.models.objective.named_parameters()}
    return gradient, trainer.accelerator.num_processes


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found, processes = first_gradient(yaml.safe_load(file))
    if torch.distributed.get_rank() == 0:
        torch.save({"gradient": found, "processes": processes}, sys.argv[2])
    torch.distributed.destroy_process_group()
