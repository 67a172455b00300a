"""What labelling tools export as shapes, read: CVAT, COCO, LabelMe, Label Studio, YOLO."""
