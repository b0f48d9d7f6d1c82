"""Pictures and masks: which files are some, how they are read, and whether a whole list can be.

`read_image` serves data sets, `read_own_picture` what a user hands to explain and infer scripts,
`read_mask` the class ids of a segmentation, `check_images` a whole list before the first step.
"""

from common.files import (  # noqa: F401
    IMAGE_SUFFIXES,
    image_files,
    is_hidden,
    is_image,
    visible,
)
from common.images_check import check_images, left_out  # noqa: F401
from common.images_read import (  # noqa: F401
    DAMAGE,
    VOC,
    CorruptImage,
    read_image,
    read_mask,
    read_own_picture,
    why_unreadable,
)
