"""The data set that also hands out each sample's index."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from common.aliases import one_module
from common.domain import DomainError

one_module(__name__, "cavl.utils.gen_index_dataset")


class gen_index_dataset(Dataset):  # noqa: N801 (the reference's name)
    """Item i is (images[i], given_label_matrix[i], true_labels[i], i).

    The index tells the trainer which row of the confidence table belongs to the sample.

    images: (n, ...), given_label_matrix: (n, K) of 0/1, true_labels: (n,), as given (the reference
    passes them as floats; they are never used for training). ValueError where they are not equally
    many.
    """

    def __init__(
        self,
        images: torch.Tensor | Sequence,
        given_label_matrix: torch.Tensor | Sequence,
        true_labels: torch.Tensor | Sequence,
    ) -> None:
        sizes = len(images), len(given_label_matrix), len(true_labels)
        if len(set(sizes)) > 1:
            images_rows = f"{sizes[0]} images, {sizes[1]} rows of labels"
            raise DomainError(f"{images_rows} and {sizes[2]} true labels: not one each")
        self.images = images
        self.given_label_matrix = given_label_matrix
        self.true_labels = true_labels

    def __len__(self) -> int:
        return len(self.true_labels)

    def __getitem__(self, index: int) -> tuple:
        return self.images[index], self.given_label_matrix[index], self.true_labels[index], index
