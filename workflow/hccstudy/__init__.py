"""hccstudy: multicenter imaging studies of hepatocellular carcinoma, from images to external validation."""

__version__ = "0.1.0"
