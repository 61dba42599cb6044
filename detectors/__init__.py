"""Frames become detections, detections become tubes."""

__all__: list[str] = []
