"""The packages that nothing imports before a command line is known to be right."""

HEAVY = (
    "torch",
    "torchvision",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "timm",
    "cv2",
    "accelerate",
)
