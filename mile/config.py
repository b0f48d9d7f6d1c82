"""The settings. Edit `class config` and run `python MILe.py`, or give the settings as flags.

`--rho 0.1`.

A flag wins over the class. A setting edited here counts as given. None: the value of the protocol
or, on the offline sample, the sample's own. What each setting means: `python MILe.py --help`,
mile/options_table.py.
"""

from typing import Any

from common.aliases import one_module
from mile.options_table import resolve

one_module(__name__, "mile.config")


class config:
    """Settings of MILe.py.

    The values are the unofficial code's, the authors' where None (see `protocol`).
    """

    model = "resnet18"  # resnet18, resnet50, resnet18-10 (MNIST), small, small-10, any name of timm
    schema = "MILe"  # softmax, sigmoid, MILe
    data_path = "../data/train/"  # ImageNet train: class folders
    val_path = "../data/val"  # ImageNet val: class folders
    real_path = "../data/real.json"  # ReaL labels
    mnist_path = "../data/"  # holds MNIST/raw; downloaded when it is not there
    dataset = "imagenet"  # imagenet, mnist, webvision, folder

    lr = 0.1  # for a batch of 256, see scale_lr
    batch_size = 16
    num_workers = 4
    epoch_num = 100  # generations of MILe, passes over the training set otherwise
    k_t = 8000  # steps of the interactive phase: the teacher learns the single labels
    k_s = 2000  # steps of the imitation phase: the student learns the teacher's label sets
    device = "cuda"  # cuda, cpu
    rho = 0.25  # a label enters the pseudo labels when the teacher's sigmoid exceeds it

    checkpoint_path = "./checkpoint"
    max_checkpoint_num = 2

    protocol = "authors"  # authors, unofficial: the preset of the next eight
    threshold_on = None  # prob / logit
    reduction = None  # sum / mean
    student_init = None  # teacher / own; or fresh
    nesterov = None  # True / False
    bias_init = None  # prior / default
    scale_lr = None  # True / False: lr * batch_size / 256
    augment = None  # standard / none
    mnist_size = None  # 84 / 224
    mnist_redraw = None  # False / True: new grids in each pass

    mnist_grids = 0  # 0: each digit once
    mnist_test_grids = 0
    image_size = 224
    keep_ground_truth = False
    warmup = 0  # extra interactive steps before the first imitation
    rho_start = None  # anneal: rho goes from here to rho over the first half of the generations
    rho_cover = None  # choose rho: the teacher's sets hold y on this share of held-out images
    eval_rho = None  # threshold of the prediction set; None: rho
    lr_schedule = "plateau"  # plateau, step, cosine, constant
    lr_milestones = "30,60,80"  # step: numbers of epochs, or shares of the run below 1
    total_steps = 0  # 0: from epoch_num; else the run ends after so many steps, for every schema
    train_frac = 1.0
    subset_seed = 42
    subset_file = ""
    reweight = "none"  # none, uniform
    pretrained = ""  # a weight file, or imagenet


def parse_config(argv: list[str] | None = None) -> Any:
    """A new settings object: the class's attributes, then the command line (None: sys.argv[1:]).

    Does not change the class and sees edits of it. A bad value ends with one line on stderr and
    status 2.
    """
    from mile.options import choose

    return choose(config, argv).settle()


def setting(conf: Any, name: str) -> Any:
    """A setting of a parsed object, of `config` itself or of a subclass.

    None becomes the protocol's value.
    """
    return resolve(conf, name)
