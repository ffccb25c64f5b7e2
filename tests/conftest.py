"""Settings of all tests."""

import os

from hypothesis import settings

# No deadline: the machines that run these tests are shared. In CI the same examples every time.
settings.register_profile("agesdk", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("agesdk")
