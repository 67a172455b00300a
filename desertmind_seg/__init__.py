"""Off-road semantic segmentation on a vehicle: bundle, engine, segmenter, ROS 2 node, tools."""

__version__ = '0.1.0'
