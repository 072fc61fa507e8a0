"""Scores of appendix A that a model gives. Each is a class that loads its model once and is called on decoded frames.

Frames are F H W 3, uint8, RGB. No video is opened and no threshold is applied here.
"""
