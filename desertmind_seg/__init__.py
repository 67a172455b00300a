"""Semantic segmentation of off-road camera streams: bundle, engine, segmenter, ROS 2 node and tools."""

__version__ = '0.1.0'
