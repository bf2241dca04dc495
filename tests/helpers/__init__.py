"""What tests in several folders share, one module for each subject."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
