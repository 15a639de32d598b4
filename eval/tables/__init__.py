"""Tables: build data from a layout and measurements; render LaTeX, CSV, Markdown, HTML and terminal text."""
