"""`retain figure`: the paper's Figure 3 (arXiv 2506.01097) for every method: preservation over average retention.

points.py takes the points and the Pareto front from an experiment's answers, draw.py paints and writes them.
"""
