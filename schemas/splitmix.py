"""The hash behind every order that is written down: one step of SplitMix64 (Steele, Lea and Flood 2014)."""

import numpy as np
import numpy.typing as npt


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijection of 64-bit numbers in which every input bit moves about half of the output bits. Modulo 2^64,

    x = x + 0x9E3779B97F4A7C15
    x = (x XOR (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x XOR (x >> 27)) * 0x94D049BB133111EB
    x XOR (x >> 31)
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
