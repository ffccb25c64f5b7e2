"""Errors say what happened, why, and what to do."""

from __future__ import annotations

import pickle

import pytest

from agesdk import errors


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            ("The face is small", "it has 31 pixels", "Use a larger picture"),
            "The face is small: it has 31 pixels. Use a larger picture.",
        ),
        (("The face is small.", "", "Use a larger picture."), "The face is small. Use a larger picture."),
        (("Stop!", "", ""), "Stop!"),
        (("What?", "", "Try again"), "What? Try again."),
    ],
)
def test_parts_become_sentences(parts: tuple[str, str, str], text: str) -> None:
    assert str(errors.AgeSDKError(*parts)) == text


def test_errors_survive_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(errors.FaceError("a", "b", "c", {"yaw": 71.0})))
    assert (str(error), error.fix, error.measured) == ("a: b. c.", "c", {"yaw": 71.0})
    assert str(pickle.loads(pickle.dumps(errors.Cancelled()))) == "Cancelled by the progress callback."
