"""Class tables that publishers did not put into their archives."""

from training.label_exports.records import ExportClass

# cityscapesscripts/helpers/labels.py: the category "void" means not labelled. Licence plates are
# -1, which a mask cannot hold.
CITYSCAPES = tuple(
    ExportClass(name, code, color, is_void=code < 7)
    for code, (name, color) in enumerate(
        [
            ('unlabeled', (0, 0, 0)),
            ('ego vehicle', (0, 0, 0)),
            ('rectification border', (0, 0, 0)),
            ('out of roi', (0, 0, 0)),
            ('static', (0, 0, 0)),
            ('dynamic', (111, 74, 0)),
            ('ground', (81, 0, 81)),
            ('road', (128, 64, 128)),
            ('sidewalk', (244, 35, 232)),
            ('parking', (250, 170, 160)),
            ('rail track', (230, 150, 140)),
            ('building', (70, 70, 70)),
            ('wall', (102, 102, 156)),
            ('fence', (190, 153, 153)),
            ('guard rail', (180, 165, 180)),
            ('bridge', (150, 100, 100)),
            ('tunnel', (150, 120, 90)),
            ('pole', (153, 153, 153)),
            ('polegroup', (153, 153, 153)),
            ('traffic light', (250, 170, 30)),
            ('traffic sign', (220, 220, 0)),
            ('vegetation', (107, 142, 35)),
            ('terrain', (152, 251, 152)),
            ('sky', (70, 130, 180)),
            ('person', (220, 20, 60)),
            ('rider', (255, 0, 0)),
            ('car', (0, 0, 142)),
            ('truck', (0, 0, 70)),
            ('bus', (0, 60, 100)),
            ('caravan', (0, 0, 90)),
            ('trailer', (0, 0, 110)),
            ('train', (0, 80, 100)),
            ('motorcycle', (0, 0, 230)),
            ('bicycle', (119, 11, 32)),
        ]
    )
)

# Their order is that of labelTrainIds; 255 is everything else.
CITYSCAPES_TRAINED = (
    *('road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign'),
    *('vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train'),
    *('motorcycle', 'bicycle'),
)

# PASCAL VOC 2012; 255 is the border of objects.
VOC = tuple(
    ExportClass(name, code, color)
    for code, (name, color) in enumerate(
        [
            ('background', (0, 0, 0)),
            ('aeroplane', (128, 0, 0)),
            ('bicycle', (0, 128, 0)),
            ('bird', (128, 128, 0)),
            ('boat', (0, 0, 128)),
            ('bottle', (128, 0, 128)),
            ('bus', (0, 128, 128)),
            ('car', (128, 128, 128)),
            ('cat', (64, 0, 0)),
            ('chair', (192, 0, 0)),
            ('cow', (64, 128, 0)),
            ('diningtable', (192, 128, 0)),
            ('dog', (64, 0, 128)),
            ('horse', (192, 0, 128)),
            ('motorbike', (64, 128, 128)),
            ('person', (192, 128, 128)),
            ('pottedplant', (0, 64, 0)),
            ('sheep', (128, 64, 0)),
            ('sofa', (0, 192, 0)),
            ('train', (128, 192, 0)),
            ('tvmonitor', (0, 64, 128)),
        ]
    )
)
VOC_BORDER = (224, 224, 192)
