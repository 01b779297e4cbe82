"""Each module prints a table and writes JSON to build/bench: ratios of like work, side by side."""
