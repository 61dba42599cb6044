"""The HTML template of a report with its style and script, each put into the page whole."""
