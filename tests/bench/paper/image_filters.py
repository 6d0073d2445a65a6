"""Filters and textures that the corruptions are made of.

Images are float arrays [h, w, 3] (or [h, w]) of values from 0 to 1. Every random one takes a numpy Generator.
"""
import numpy as np
from scipy import ndimage


def gaussian_blur(image, sigma):
    """Each channel convolved with a Gaussian (standard deviation in pixels); the border pixel goes on outside."""
    return ndimage.gaussian_filter(image, (sigma, sigma) + (0,) * (image.ndim - 2), mode="nearest")


def disk_kernel(radius, alias_sigma):
    """A filled circle (pixels whose centre lies within `radius`) softened by 3 x 3 taps of a Gaussian; sums to 1."""
    reach = int(np.ceil(radius)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(float)
    taps = np.exp(-0.5 * (np.arange(-1, 2) / alias_sigma) ** 2)
    soft = ndimage.convolve(disk, np.outer(taps, taps), mode="constant")
    return soft / soft.sum()


def convolve(image, kernel):
    """Each channel with `kernel` [k, k]; mirrored outside."""
    return np.stack([ndimage.convolve(image[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def motion_blur(image, radius, sigma, degrees):
    """A one-sided trail: the mean, along a line of 2 radius + 1 pixels that begins at each pixel, with the weights of half a
    Gaussian of standard deviation `sigma`. Positions are rounded to pixels; beyond the border its pixel goes on."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    angle = np.deg2rad(degrees)
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for step, weight in zip(steps, weights):
        rows = np.clip(np.arange(height) + int(np.rint(step * np.sin(angle))), 0, height - 1)
        columns = np.clip(np.arange(width) + int(np.rint(step * np.cos(angle))), 0, width - 1)
        out += weight * image[np.ix_(rows, columns)]
    return out


def _enlargement(size, factor):
    """[size, size]: each row of the enlarged image as a mixture of two neighbouring rows of the image."""
    centre = (size - 1) / 2
    source = centre + (np.arange(size) - centre) / factor
    return np.maximum(0, 1 - np.abs(source[:, np.newaxis] - np.arange(size)))


def zoom(image, factor):
    """Enlarged around the centre by `factor` >= 1, cut to the size it had, bilinear."""
    across = np.tensordot(_enlargement(image.shape[0], factor), image, 1)
    return np.moveaxis(np.tensordot(_enlargement(image.shape[1], factor), across, (1, 1)), 0, 1)


def plasma(size, decay, random):
    """A cloud [size, size] of values from 0 to 1 by midpoint displacement on a torus; `size` is a power of two. Each time the
    grid becomes twice as fine the displacements become smaller by decay squared: a small decay makes rough clouds."""
    heights = np.zeros((1, 1))
    amplitude = 1.0
    while len(heights) < size:
        n = 2 * len(heights)
        shift = lambda grid, rows, columns: np.roll(grid, (-rows, -columns), (0, 1))
        corners = heights + shift(heights, 1, 0) + shift(heights, 0, 1) + shift(heights, 1, 1)
        centres = corners / 4 + amplitude * random.uniform(-1, 1, heights.shape)
        # The middle of an edge lies between two corners and the centres on both sides of it.
        across = heights + shift(heights, 0, 1) + centres + np.roll(centres, 1, 0)
        down = heights + shift(heights, 1, 0) + centres + np.roll(centres, 1, 1)
        finer = np.empty((n, n))
        finer[::2, ::2] = heights
        finer[1::2, 1::2] = centres
        finer[::2, 1::2] = across / 4 + amplitude * random.uniform(-1, 1, heights.shape)
        finer[1::2, ::2] = down / 4 + amplitude * random.uniform(-1, 1, heights.shape)
        heights = finer
        amplitude /= decay**2
    heights -= heights.min()
    return heights / max(heights.max(), 1e-12)


def frost_texture(size, random):
    """Something like ice on a window, [size, size, 3]: bright needles in a few directions on a cloudy ground, a little blue.

    Made up. The published recipe cuts pieces out of six photographs, which are not free to pass on. Mean about 0.5.
    """
    ground = plasma(size, 1.6, random)
    needles = np.zeros((size, size))
    for _ in range(3):
        seeds = np.where(random.random((size, size)) < 0.06, random.uniform(0.5, 1.0, (size, size)), 0.0)
        angle = random.uniform(0, 360)
        needles = np.maximum(needles, motion_blur(seeds, 6, 4.0, angle) + motion_blur(seeds, 6, 4.0, angle + 180))
    needles = np.clip(needles / max(np.quantile(needles, 0.98), 1e-12), 0, 1)
    grey = 0.25 + 0.35 * ground + 0.4 * needles * (0.4 + 0.6 * ground)
    return np.clip(grey[..., np.newaxis] * np.array([0.92, 0.98, 1.06]), 0, 1)
