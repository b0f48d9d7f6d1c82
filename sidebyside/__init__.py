"""The papers' numbers and ours, side by side: what compare.py prints and writes."""
