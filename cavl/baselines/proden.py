"""PRODEN (Lv et al., Progressive Identification of True Labels for Partial-Label Learning)."""

from dataclasses import dataclass
from typing import ClassVar

from cavl.baselines.rc import RC


@dataclass(frozen=True)
class PRODEN(RC):
    """The rule of RC, with the outputs of the training forward: there is no second one."""

    looks_again: ClassVar[bool] = False


METHOD = PRODEN
