from __future__ import annotations

from hypothesis import settings

settings.register_profile("vadx", deadline=None, database=None, print_blob=True)
settings.load_profile("vadx")
