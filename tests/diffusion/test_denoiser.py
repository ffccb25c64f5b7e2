"""The loop and the conditions on engines written in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from agesdk.backends.base import check_feeds, mix_guidance
from agesdk.bundle import Component, LearnedCondition, SchedulerSettings, TensorSpec, TextCondition
from agesdk.diffusion.conditioning import CACHED_CONDITIONS, LearnedConditioning, TextConditioning
from agesdk.diffusion.denoiser import denoise
from agesdk.diffusion.schedule import make_schedule
from agesdk.errors import BackendError, BundleError, Cancelled, UsageError

SHAPE = (2, 3, 3)


def spec(name, dtype, *shape):
    return TensorSpec(name, dtype, ("batch", *shape))


class NumpyEngine:
    """An engine around a function; keeps the batches it was given."""

    def __init__(self, function, inputs, output, largest=4):
        self.name, self.inputs, self.outputs = "numpy", tuple(inputs), (output,)
        self.profile = {"batch": (1, 1, largest)}
        self._function = function
        self.batches = []

    def run(self, feeds):
        component = Component("numpy", "fp32", ("m.onnx",), self.inputs, self.outputs, self.profile)
        check_feeds(component, {name: (array.dtype.name, array.shape) for name, array in feeds.items()})
        self.batches.append(len(next(iter(feeds.values()))))
        return {self.outputs[0].name: self._function(**feeds)}

    def to_device(self, array):
        return array

    def guide(self, halves, scale):
        return mix_guidance(halves, scale)

    def to_host(self, tensor):
        return tensor


def model(sample, condition, extra=0.0):
    return np.tanh(sample) * 0.5 + condition.mean((1, 2))[:, None, None, None] + extra


def denoise_engine(conditioned=False, largest=4):
    def step(sample, noise, timestep, encoder_hidden_states, coeffs, masked_latents=None, mask=None):
        c_in, c_sample, c_out, c_noise = (coeffs[:, i, None, None, None] for i in range(4))
        extra = 0.0 if mask is None else mask * masked_latents
        out = model(c_in * sample, encoder_hidden_states, extra) + timestep[:, None, None, None] / 1000
        return (c_sample * sample + c_out * out + c_noise * noise).astype(np.float32)

    inputs = [
        spec("sample", "float32", *SHAPE),
        spec("noise", "float32", *SHAPE),
        spec("timestep", "float32"),
        spec("encoder_hidden_states", "float32", 1, 2),
        spec("coeffs", "float32", 4),
    ]
    if conditioned:
        inputs += [spec("masked_latents", "float32", *SHAPE), spec("mask", "float32", 1, *SHAPE[1:])]
    return NumpyEngine(step, inputs, spec("next_sample", "float32", *SHAPE), largest)


def case(batch, sampler="ddim", noises=1):
    rng = np.random.default_rng(5)
    latents = rng.standard_normal((batch, *SHAPE)).astype(np.float32)
    noise = rng.standard_normal((noises, batch, *SHAPE)).astype(np.float32)
    condition, null = rng.standard_normal((2, batch, 1, 2)).astype(np.float32)
    return make_schedule(SchedulerSettings(sampler=sampler), 10, 0.5), latents, noise, condition, null


@pytest.mark.parametrize("guidance", [0.8, 1.0])
def test_no_guidance_at_one_or_below(guidance):
    schedule, latents, noise, condition, null = case(2)
    engine = denoise_engine()
    guided = denoise(engine, schedule, latents, noise, condition, null, guidance)
    np.testing.assert_array_equal(guided, denoise(engine, schedule, latents, noise, condition))
    assert set(engine.batches) == {2}


def test_guidance_equals_mixing_the_models_outputs():
    """Mixed after the step as before it: the step is affine in the model's output."""
    schedule, latents, noise, condition, null = case(2, "euler_ancestral", 6)
    sample = schedule.start_latents * latents + schedule.start_noise * noise[0]
    for i, step in enumerate(schedule.steps):
        low, high = (model(step.c_in * sample, c) + step.timestep / 1000 for c in (null, condition))
        out = low + 3.0 * (high - low)
        sample = step.c_sample * sample + step.c_out * out
        if step.c_noise:
            sample = sample + step.c_noise * noise[1 + i]
    engine = denoise_engine()
    guided = denoise(engine, schedule, latents, noise, condition, null, 3.0)
    np.testing.assert_allclose(guided, sample, atol=2e-5)
    assert set(engine.batches) == {4}


@pytest.mark.parametrize("guidance, batches", [(1.0, {2, 3}), (2.0, {2, 4})])
def test_batches_follow_the_profile_without_changing_the_result(guidance, batches):
    schedule, latents, noise, condition, null = case(5)
    extra = {
        "masked_latents": latents[::-1].copy(),
        "mask": np.linspace(0, 1, 45).reshape(5, 1, 3, 3).astype(np.float32),
    }
    engine = denoise_engine(True)
    together = denoise(engine, schedule, latents, noise, condition, null, guidance, extra)
    alone = [
        denoise(
            engine,
            schedule,
            latents[i : i + 1],
            noise[:, i : i + 1],
            condition[i : i + 1],
            null[i : i + 1],
            guidance,
            {name: array[i : i + 1] for name, array in extra.items()},
        )
        for i in range(5)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
    assert set(engine.batches[:10]) <= batches and max(engine.batches) <= 4


def test_a_callback_that_raises_ends_the_run():
    schedule, latents, noise, condition, _ = case(1)
    seen = []

    def stop(rows):
        seen.append(rows)
        if len(seen) == 2:
            raise Cancelled()

    with pytest.raises(Cancelled):
        denoise(denoise_engine(), schedule, latents, noise, condition, on_step=stop)
    assert seen == [1, 1]


def test_guidance_without_a_null_condition_or_room_is_told():
    schedule, latents, noise, condition, null = case(1)
    with pytest.raises(BundleError, match="null condition"):
        denoise(denoise_engine(), schedule, latents, noise, condition, None, 2.0)
    with pytest.raises(BackendError, match="batch of 2"):
        denoise(denoise_engine(largest=1), schedule, latents, noise, condition, null, 2.0)


def test_learned_conditions_are_encoded_once():
    condition = LearnedCondition(("forehead", "glabella"), ancestries=("A", "B"))

    def encode(zone, score, ancestry):
        return np.stack([zone, score, ancestry], 1).astype(np.float32)[:, None]

    inputs = [spec("zone", "int64"), spec("score", "float32"), spec("ancestry", "int64")]
    encoder = NumpyEngine(encode, inputs, spec("encoder_hidden_states", "float32", 1, 3))
    conditioning = LearnedConditioning(condition, encoder)
    rows = conditioning.full(["glabella", "forehead", "glabella"], [0.5, 0.25, 0.5], "B")
    np.testing.assert_array_equal(rows[:, 0], [[1, 0.5, 1], [0, 0.25, 1], [1, 0.5, 1]])
    np.testing.assert_array_equal(conditioning.null(["glabella"])[:, 0], [[1, -1, -1]])
    conditioning.full(["forehead", "glabella"], [0.25, 0.5], "B")
    assert encoder.batches == [2, 1]
    with pytest.raises(UsageError, match=r'"C".*"A", "B"'):
        conditioning.full(["glabella"], [0.5], "C")
    for i in range(CACHED_CONDITIONS):
        conditioning.full(["forehead"], [i / 1000])
    conditioning.full(["glabella"], [0.5], "B")
    assert len(encoder.batches) == 3 + CACHED_CONDITIONS


def test_text_conditions_go_through_their_prompts():
    condition = TextCondition({"full": "{zone} {score}", "zone": "{zone}"})
    prompts = []

    def tokens(batch):
        prompts.extend(batch)
        return np.zeros((len(batch), 77), np.int64)

    def encode(input_ids):
        return np.ones((len(input_ids), 77, 2), np.float32)

    encoder = NumpyEngine(
        encode, [spec("input_ids", "int64", 77)], spec("encoder_hidden_states", "float32", 77, 2)
    )
    conditioning = TextConditioning(condition, tokens, encoder)
    assert conditioning.full(["forehead", "forehead"], [0.704, 0.696]).shape == (2, 77, 2)
    conditioning.null(["forehead", "glabella"])
    assert prompts == ["forehead 70", "forehead", "glabella"]
