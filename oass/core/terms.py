"""Which terms a run's loss has: what --loss_option and --p_loss mean for a strategy. Importable without torch."""

from typing import NamedTuple

from common.aliases import one_module
from oass.core.options import WITH_TEACHER, WITHOUT_TILES

one_module(__name__, "oass.core.terms")


class Terms(NamedTuple):
    """Of LOSS_PARTS: present in the loss; trained, those with a gradient; over_pairs, means over pairs (if present)."""

    present: frozenset[str]
    trained: frozenset[str]
    over_pairs: frozenset[str]

    @property
    def needs_tiles(self) -> bool:
        """Whether the loss looks at tiles."""
        return bool(self.present & self.over_pairs)


def terms_of(strategy: str, p_loss: str, loss_option: str) -> Terms:
    """The terms that `loss_option` names and the strategy has.

    L_re and conf need tiles. L_pcl looks at the tiles' maps: the teacher's, without a gradient (D4), or the
    student's (p_loss "student"; always so where there is no teacher). p_loss "full": at the maps of the whole image.
    """
    on_image = {"cl", "pcl"} if p_loss == "full" else {"cl"}
    on_tiles = {"pcl", "re", "conf"} - on_image if strategy not in WITHOUT_TILES else set()
    constant = (
        on_tiles & {"pcl", "conf"} if strategy in WITH_TEACHER and p_loss != "student" else set()
    )
    present = (on_image | on_tiles) & set(loss_option.split("_"))
    return Terms(frozenset(present), frozenset(present - constant), frozenset(on_tiles))
