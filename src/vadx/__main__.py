"""``python -m vadx``."""

from .pipelines.cli import main

main()
