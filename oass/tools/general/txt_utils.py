"""Lists of image ids, under the original's file name; they live in oass/data_voc.py."""

from common.aliases import one_module
from oass.data_voc import read_id_list, write_lines

one_module(__name__, "oass.tools.general.txt_utils")

__all__ = ["read_id_list", "write_lines"]
