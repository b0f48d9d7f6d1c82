"""How tests start a script on two processes: torchrun on a free port."""

import sys

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
