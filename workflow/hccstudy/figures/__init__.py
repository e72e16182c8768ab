"""The paper's figures, each as PDF, SVG and 300-dpi PNG; they read tables only, so a redraw takes seconds.

One module per subject (cohort, features, performance, models) holds plots that take and return `ax`; `stages`
lays them out and writes the files; `style` says how everything looks; `evaluated` says which rows are shown.
"""

from hccstudy.figures.stages import draw_endpoint, draw_study

__all__ = ["draw_endpoint", "draw_study"]
