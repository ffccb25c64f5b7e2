"""What to build for: ``rtx:86,89`` ahead of time, ``local`` for the GPU at hand, and profiles by axis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agesdk.backends.base import did_you_mean, listed
from agesdk.bundle import Component
from agesdk.engine_key import AHEAD_OF_TIME, Profile, RuntimeName, show_profile
from agesdk.errors import UsageError

_AXIS = re.compile(r"([A-Za-z_]\w*)=(\d+):(\d+):(\d+)")


@dataclass(frozen=True)
class Target:
    """A library, and the compute capabilities it compiles for; none of them means the GPU at hand.

    ``runtime`` is None where the user leaves the library to what is installed.
    """

    runtime: RuntimeName | None
    compute_capabilities: tuple[str, ...] = ()


def parse_target(text: str) -> Target:
    """``rtx:89``, ``rtx:86,89`` (one engine for both), ``local``, ``local:tensorrt``,
    ``local:tensorrt-rtx``."""
    kind, _, rest = text.partition(":")
    if kind == "local":
        if rest in ("", "tensorrt", "tensorrt-rtx"):
            chosen: dict[str, RuntimeName | None] = {
                "": None,
                "tensorrt": "tensorrt",
                "tensorrt-rtx": "tensorrt-rtx",
            }
            return Target(chosen[rest])
        raise UsageError(
            f'The library "{rest}" of the target {text} is unknown', "", "Use tensorrt or tensorrt-rtx"
        )
    if kind != "rtx" or not rest:
        raise UsageError(
            f'The target "{text}" is unknown',
            "",
            "Use for instance rtx:89, rtx:86,89, local or local:tensorrt",
        )
    digits = {capability.replace(".", ""): capability for capability in AHEAD_OF_TIME}
    found = []
    for name in rest.split(","):
        if name not in digits:
            raise UsageError(
                f'TensorRT-RTX does not compile ahead of time for "{name}"',
                f"it knows {listed(digits)}",
                did_you_mean(name, list(digits)) or "On the GPU itself use --target local",
            )
        found.append(digits[name])
    ordered = tuple(capability for capability in AHEAD_OF_TIME if capability in found)
    return Target("tensorrt-rtx", ordered)


def parse_profile(text: str) -> Profile:
    """``batch=1:6:12,tokens=2:2:77``: smallest, best and largest size of axes."""
    profile: Profile = {}
    for part in text.split(","):
        match = _AXIS.fullmatch(part)
        if match is None:
            raise UsageError(f'The profile "{part}" is not understood', "", "Write AXIS=MIN:BEST:MAX")
        symbol = match.group(1)
        low, best, high = (int(match.group(index)) for index in (2, 3, 4))
        if not 1 <= low <= best <= high:
            raise UsageError(
                f'The profile "{part}" is not in order', "", "It must be 1 <= MIN <= BEST <= MAX"
            )
        if symbol in profile:
            raise UsageError(f'The profile names the axis "{symbol}" twice')
        profile[symbol] = (low, best, high)
    return profile


def profiles_for(component: Component, wanted: Sequence[Profile]) -> tuple[Profile, ...]:
    """The optimization profiles of a component: the manifest's, with the axes that are asked for replaced.

    Raises
    ------
    UsageError
        A size outside the manifest's range, which the graph was not exported for.
    """
    made: list[Profile] = []
    for overrides in wanted or ({},):
        profile = {symbol: overrides.get(symbol, stated) for symbol, stated in component.profile.items()}
        for symbol, (low, _, high) in profile.items():
            smallest, _, largest = component.profile[symbol]
            if low < smallest or high > largest:
                raise UsageError(
                    f'"{symbol}" from {low} to {high} is not possible for {component.name}',
                    f"the bundle was exported for {smallest} to {largest}",
                    f"Stay within {show_profile(component.profile)}, or export the bundle again",
                )
        if profile not in made:
            made.append(profile)
    return tuple(made)


def check_axes(components: Sequence[Component], wanted: Sequence[Profile]) -> None:
    """Raise `UsageError` for an axis that none of the components has."""
    known = {symbol for component in components for symbol in component.profile}
    for profile in wanted:
        for symbol in profile:
            if symbol not in known:
                raise UsageError(
                    f'No component to build has the axis "{symbol}"',
                    f"their axes are {listed(sorted(known))}",
                    did_you_mean(symbol, sorted(known)),
                )
