"""How results are shown: tables for the terminal, the score card. rich and jinja2 are used here and nowhere else, and
only if they are there."""
