"""Augment images: random crops and flips on the device, drawn by (seed, epoch, image key) and not by batch order."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zscir.methods.counter_rng import random_stream, uniforms


def crop_boxes(streams: Sequence[int], least_area: float) -> NDArray[np.float64]:
    """[N, 4] centre x, centre y, width, height as shares of the square.

    As RandomResizedCrop: area in [least_area, 1], aspect log-uniform in [3/4, 4/3], sides cut off at the square.
    """
    # torchvision draws up to ten boxes until one fits; here one draw is cut off at the square, so that every image
    # takes the same count of random numbers.
    area, aspect, across, down = uniforms(streams, 4).T
    area = least_area + (1 - least_area) * area
    aspect = np.exp(np.log(3 / 4) + aspect * (np.log(4 / 3) - np.log(3 / 4)))
    width = np.minimum(np.sqrt(area * aspect), 1.0)
    height = np.minimum(np.sqrt(area / aspect), 1.0)
    return np.stack([width / 2 + across * (1 - width), height / 2 + down * (1 - height), width, height], axis=1)


def augmented_view(
    pixels_B3HW: Tensor, name: str, seed: int, epoch: int, keys: Sequence[str], area: float, flip: float
) -> Tensor:
    """Float pixels in 0..255 of view ``name``: a crop of at least ``area``, mirrored with probability ``flip``.

    The crop is cut from the square (not from the original photograph), bicubic.
    """
    if area == 1.0 and flip == 0.0:  # PLI trains without augmentation
        return pixels_B3HW.float()
    streams = [random_stream("view", name, seed, epoch, key) for key in keys]
    boxes = crop_boxes(streams, area)
    mirrored = np.where(uniforms(streams, 5)[:, 4] < flip, -1.0, 1.0)
    # affine_grid takes the box in -1..1: half extents on the diagonal (a negative one mirrors), the centre last.
    theta = np.zeros((len(keys), 2, 3), dtype=np.float32)
    theta[:, 0, 0] = boxes[:, 2] * mirrored
    theta[:, 1, 1] = boxes[:, 3]
    theta[:, :, 2] = boxes[:, :2] * 2 - 1
    size = [int(side) for side in pixels_B3HW.shape]
    grid = F.affine_grid(torch.from_numpy(theta).to(pixels_B3HW.device), size, align_corners=False)
    # Bicubic weights overshoot at edges, hence the clamp.
    sampled = F.grid_sample(pixels_B3HW.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp(0, 255)
