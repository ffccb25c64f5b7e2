"""The accuracy gate: nothing is timed that does not compute what it should."""

from __future__ import annotations

import logging

from agesdk.backends import load_engine
from agesdk.bundle import Bundle
from agesdk.errors import UsageError
from agesdk.goldens import check_component

_log = logging.getLogger(__name__)


def check_goldens(bundle: Bundle, backend: str, provider: str | None, threads: int | None) -> None:
    """Run the golden of every component, in the precision that runs.

    Raises
    ------
    UsageError
        One differs by more than its tolerance.
    BundleError
        A component has no golden.
    """
    failed = []
    for name in bundle.manifest.components:
        engine = load_engine(bundle, name, backend, provider, threads)
        checks = check_component(bundle, name, engine)
        failed += [
            f"{check.component}.{check.output} in {check.precision} by {check.max_abs:.3g}"
            for check in checks
            if not check.passed
        ]
        good = all(check.passed for check in checks)
        _log.info("golden of %s: %s", name, "good" if good else "differs")
    if failed:
        raise UsageError(
            f"The bundle {bundle.path} fails its goldens, so it is not timed",
            "; ".join(failed),
            "See python -m engines verify BUNDLE",
        )
