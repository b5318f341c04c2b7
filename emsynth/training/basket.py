"""The weights of the losses that a stage of a training sums up."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from emsynth.draw import Strict

Weight = Annotated[float, Field(ge=0)]


class Basket(Strict):
    """Weights of the losses that are summed; those of the paper's full basket [1]_ by default, and ours at 0.

    Attributes
    ----------
    l1, l2 : float
        Mean absolute and mean squared error.
    whitening : float
        See `emsynth.training.losses.whitening`.
    fourier : float
        See `emsynth.training.losses.fourier`.
    mean, std : float
        Absolute difference of the two means, and of the two standard deviations, of a sample.
    gradient_x, gradient_y : float
        Mean absolute difference of the forward differences along a row, and down a column.
    adversarial : float
        See `emsynth.training.losses.adversarial_generator`.
    log_mse : float
        See `emsynth.training.losses.log_mse`.

    References
    ----------
    .. [1] Lobato, Friedrich and Van Aert, Deep convolutional neural networks to restore single-shot electron
       microscopy images, npj Comput. Mater. 10, 10 (2024).
    """

    l1: Weight = 5.0
    l2: Weight = 4.0
    whitening: Weight = 0.2
    fourier: Weight = 0.4
    mean: Weight = 8.0
    std: Weight = 4.0
    gradient_x: Weight = 0.8
    gradient_y: Weight = 0.8
    adversarial: Weight = 5e-4
    log_mse: Weight = 0.0

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields if name != "adversarial"):
            raise ValueError("no loss that compares an image with its truth has a weight above 0")
        return self
