"""What VOC defines, under the original's file name; it lives in oass/data_voc.py."""

from common.aliases import one_module
from oass.data_voc import CLASS_DIC, CLASS_NAMES, META, read_mask

one_module(__name__, "oass.tools.dataset.voc_utils")

__all__ = ["CLASS_DIC", "CLASS_NAMES", "META", "read_mask"]
