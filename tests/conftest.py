"""Settings of all tests."""

from hypothesis import settings

# A deadline for an example would fail on a machine that does other things at the same time.
settings.register_profile("textbrewer", deadline=None)
settings.load_profile("textbrewer")
