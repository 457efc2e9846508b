"""How results are shown: tables for the terminal. rich is used here and nowhere else, and only if it is there."""
