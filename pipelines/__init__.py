"""Composes, schedules and reports; the only room that talks to a person."""

__all__: list[str] = []
