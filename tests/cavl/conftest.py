"""One thread: these tensors are small, and on busy cores several threads make the tests four times
slower.
"""

import torch

torch.set_num_threads(1)
