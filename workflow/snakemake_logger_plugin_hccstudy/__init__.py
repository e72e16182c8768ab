"""Where Snakemake looks for `--logger hccstudy`; what it shows is in `hccstudy.progress`."""

from hccstudy.progress import LogHandler

__all__ = ["LogHandler"]
