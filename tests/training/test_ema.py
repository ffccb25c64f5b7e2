"""The moving average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.ema import EMA


def one_weight(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_average_follows_the_warmed_up_decay() -> None:
    module = one_weight(0.0)
    ema = EMA(module, decay=0.3)
    nn.init.constant_(module.weight, 1.0)
    ema.update(module)  # d₁ = min(.3, 2/11): 1 − 2/11
    assert ema.shadow["weight"].item() == pytest.approx(9 / 11)
    nn.init.constant_(module.weight, 2.0)
    ema.update(module)  # d₂ = min(.3, 3/12): .25·9/11 + .75·2
    assert ema.shadow["weight"].item() == pytest.approx(0.25 * 9 / 11 + 1.5)
    before = ema.shadow["weight"].item()
    ema.update(module)  # d₃ = min(.3, 4/13): the limit
    assert ema.shadow["weight"].item() == pytest.approx(0.3 * before + 0.7 * 2)


def test_applied_lends_the_averages_and_gives_the_weights_back_even_after_an_error() -> None:
    module = one_weight(1.0)
    ema = EMA(module, decay=0.5)
    nn.init.constant_(module.weight, 3.0)
    with pytest.raises(RuntimeError), ema.applied(module):
        assert module.weight.item() == 1.0
        raise RuntimeError
    assert module.weight.item() == 3.0


def test_frozen_parameters_are_not_followed() -> None:
    module = nn.Sequential(one_weight(1.0), one_weight(2.0))
    module[1].requires_grad_(False)
    assert set(EMA(module).shadow) == {"0.weight"}


def test_state_of_another_module_is_refused() -> None:
    state = EMA(nn.Linear(2, 2)).state_dict()
    with pytest.raises(ValueError, match="another module"):
        EMA(one_weight(0.0)).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        EMA(one_weight(0.0), decay)


def test_restored_average_goes_on_like_the_original() -> None:
    module = one_weight(0.0)
    ema, other = EMA(module, 0.9), EMA(module, 0.9)
    nn.init.constant_(module.weight, 1.0)
    ema.update(module)
    other.load_state_dict({"updates": ema.updates, "shadow": {k: v.clone() for k, v in ema.shadow.items()}})
    for average in (ema, other):
        average.update(module)
    assert torch.equal(ema.shadow["weight"], other.shadow["weight"])
