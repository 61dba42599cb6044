"""Imported by every Python that has this folder in PYTHONPATH, decoders among them, before anything else."""

import vadx_chaos

vadx_chaos.install()
