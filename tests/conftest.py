"""No test reaches the network: scripts that tests start inherit the switch."""

import os

os.environ["WSL_OFFLINE"] = "1"
