"""What this machine can run, found by trying: `diagnose` makes the `Report` behind ``agesdk doctor``."""

from agesdk.doctor.report import REQUIREMENTS, Report, diagnose

__all__ = ["REQUIREMENTS", "Report", "diagnose"]
