"""Builds `letters.npz` beside this file from the data set LetterRecognition of the R package mlbench.

    apt-get download r-cran-mlbench && dpkg -x r-cran-mlbench_*.deb mlbench
    pip install rdata
    python prepare.py mlbench/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda

The same package gives the same arrays: x [20000, 16] uint8, y [20000] uint8.
"""

import sys
from pathlib import Path

import numpy as np
import rdata

if len(sys.argv) != 2:
    raise SystemExit(f"expected the file LetterRecognition.rda as the one argument\n{__doc__}")
table = rdata.read_rda(sys.argv[1])["LetterRecognition"]
x = table.iloc[:, 1:].to_numpy(np.uint8)
y = np.array([ord(letter) - ord("A") for letter in table["lettr"]], np.uint8)
np.savez_compressed(Path(__file__).with_name("letters.npz"), x=x, y=y)
