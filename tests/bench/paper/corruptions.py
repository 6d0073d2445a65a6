#!/usr/bin/env python3
"""The fifteen standard corruptions at five severities, for images of CIFAR's shape.

    /usr/bin/python3 tests/bench/paper/corruptions.py test_images.npy --corruption fog --severity 3 --out fog_3.npy

Recipes and strengths are those that Hendrycks and Dietterich used for CIFAR ("Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019); the code is our own, so images are alike in kind and not the same to
the pixel as those of CIFAR-10-C. Known differences:

  frost         a made-up texture (image_filters.frost_texture) in place of photographs
  glass_blur    pixels really change places; the published images came from code that overwrote one of the two
  motion_blur, snow   trails are half a Gaussian on rounded positions, as ImageMagick documents its own; not its code
  zoom_blur     enlarges around the exact centre, the published one around a crop of whole pixels
  shared draws  image i takes the same random numbers at every severity, so that severities differ in strength alone

Needs numpy, scipy and Pillow (Debian: python3-scipy, python3-pil).
"""
import argparse
import io
import pathlib
import zlib

import numpy as np
from PIL import Image
from scipy import ndimage

import image_filters as filters

SIZE = 32
SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(image, random, sigma):
    return image + random.normal(0, sigma, image.shape)


def shot_noise(image, random, photons):
    return random.poisson(image * photons) / photons


def impulse_noise(image, random, amount):
    """A share `amount` of the values becomes 0 or 1, by even chance."""
    hit = random.random(image.shape) < amount
    return np.where(hit, np.where(random.random(image.shape) < 0.5, 0.0, 1.0), image)


def defocus_blur(image, random, radius, alias_sigma):
    return filters.convolve(image, filters.disk_kernel(radius, alias_sigma))


def glass_blur(image, random, sigma, reach, rounds):
    """Every pixel changes places with one at most `reach` rows and columns away, `rounds` times, between two blurs."""
    out = filters.gaussian_blur(image, sigma)
    for _ in range(rounds):
        for row in range(SIZE - 1, reach - 1, -1):
            for column in range(SIZE - 1, reach - 1, -1):
                other = (row + random.integers(-reach, reach), column + random.integers(-reach, reach))
                here = out[row, column].copy()
                out[row, column] = out[other]
                out[other] = here
    return filters.gaussian_blur(out, sigma)


def motion_blur(image, random, radius, sigma):
    return filters.motion_blur(image, radius, sigma, random.uniform(-45, 45))


def zoom_blur(image, random, largest):
    """The mean of the image and of its enlargements by 1, 1.01, ... below `largest`."""
    factors = 1 + 0.01 * np.arange(round((largest - 1) / 0.01))
    return (image + sum(filters.zoom(image, factor) for factor in factors)) / (len(factors) + 1)


def snow(image, random, mean, sigma, enlargement, threshold, radius, trail, keep):
    flakes = filters.zoom(random.normal(mean, sigma, (SIZE, SIZE)), enlargement)
    flakes = np.where(flakes < threshold, 0.0, np.clip(flakes, 0, 1))
    flakes = filters.motion_blur(flakes, radius, trail, random.uniform(-135, -45))[..., np.newaxis]
    grey = image @ np.array([0.299, 0.587, 0.114])
    whitened = np.maximum(image, (1.5 * grey + 0.5)[..., np.newaxis])
    return keep * image + (1 - keep) * whitened + flakes + np.rot90(flakes, 2)


def frost(image, random, keep, ice):
    return keep * image + ice * filters.frost_texture(SIZE, random)


def fog(image, random, thickness, decay):
    brightest = image.max()
    cloud = thickness * filters.plasma(SIZE, decay, random)
    return (image + cloud[..., np.newaxis]) * brightest / (brightest + thickness)


def brightness(image, random, more):
    """Adds to the value of hue, saturation and value, which scales a pixel's channels alike; black becomes grey."""
    value = image.max(axis=-1, keepdims=True)
    brighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, image * brighter / np.maximum(value, 1e-12), brighter)


def contrast(image, random, share):
    """Moves every channel to its mean, all but `share` of the way."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + share * (image - mean)


def elastic_transform(image, random, strength, smoothness, affine):
    """An affine map that moves three points by up to `affine` pixels, then a smooth field of displacements."""
    corners = SIZE // 2 + SIZE // 3 * np.array([[1, 1], [1, -1], [-1, -1]], float)
    moved = corners + random.uniform(-affine, affine, corners.shape)
    with_one = np.column_stack([moved, np.ones(3)])
    to_source = np.linalg.solve(with_one, corners)  # [3, 2]: (row, column, 1) of the result -> (row, column) of the image
    positions = np.mgrid[:SIZE, :SIZE].astype(float)
    source = np.tensordot(to_source[:2].T, positions, 1) + to_source[2][:, np.newaxis, np.newaxis]
    field = random.uniform(-1, 1, (2, SIZE, SIZE))
    if strength > 0:
        source += strength * np.stack([ndimage.gaussian_filter(f, smoothness, truncate=3) for f in field])
    return np.stack([ndimage.map_coordinates(image[..., c], source, order=1, mode="mirror") for c in range(3)], -1)


def _by_pillow(image, change):
    pixels = change(Image.fromarray(np.uint8(np.rint(image * 255))))
    return np.asarray(pixels, float) / 255


def pixelate(image, random, share):
    small = (int(SIZE * share),) * 2
    return _by_pillow(image, lambda i: i.resize(small, Image.BOX).resize((SIZE, SIZE), Image.BOX))


def jpeg_compression(image, random, quality):
    def compress(pixels):
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return _by_pillow(image, compress)


# The arguments at severity 1, ..., 5: facts of the published recipe for CIFAR.
RECIPES = {
    "gaussian_noise": (gaussian_noise, [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)]),
    "shot_noise": (shot_noise, [(500,), (250,), (100,), (75,), (50,)]),
    "impulse_noise": (impulse_noise, [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)]),
    "defocus_blur": (defocus_blur, [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]),
    "glass_blur": (glass_blur, [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)]),
    "motion_blur": (motion_blur, [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    "zoom_blur": (zoom_blur, [(1.06,), (1.11,), (1.16,), (1.21,), (1.26,)]),
    "snow": (snow, [(0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)]),
    "frost": (frost, [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
    "fog": (fog, [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)]),
    "brightness": (brightness, [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)]),
    "contrast": (contrast, [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)]),
    "elastic_transform": (elastic_transform, [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6),
                                              (3.2, 0.96, 0.96)]),
    "pixelate": (pixelate, [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)]),
    "jpeg_compression": (jpeg_compression, [(80,), (65,), (58,), (50,), (40,)]),
}  # fmt: skip
NAMES = tuple(RECIPES)


def corrupt(images, name, severity, seed=0, first=0):
    """Corrupted copies, uint8 [n, 32, 32, 3], of images of that type and shape.

    severity: 1 to 5. Image i draws its random numbers from (seed, name, first + i): a slice of a data set that begins at
    row `first` is corrupted as if the whole had been. ValueError for another name, severity, type or shape.
    """
    if name not in RECIPES:
        raise ValueError(f"corruption: expected one of {', '.join(NAMES)}, got '{name}'")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: expected 1 to 5, got {severity}")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"images: expected uint8 [n, {SIZE}, {SIZE}, 3], got {images.dtype} {list(images.shape)}")
    function, strengths = RECIPES[name]
    out = np.empty_like(images)
    for i, image in enumerate(images):
        random = np.random.default_rng([seed, zlib.crc32(name.encode()), first + i])
        corrupted = function(image / 255.0, random, *strengths[severity - 1])
        out[i] = np.rint(np.clip(corrupted, 0, 1) * 255)
    return out


def main():
    parser = argparse.ArgumentParser(description="Corrupts images of CIFAR's shape.")
    parser.add_argument("images", type=pathlib.Path, help="uint8 .npy, [n, 3, 32, 32] (as fetch_cifar10.py writes) or [n, 32, 32, 3]")
    parser.add_argument("--corruption", required=True, choices=NAMES)
    parser.add_argument("--severity", required=True, type=int, choices=SEVERITIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--out", required=True, type=pathlib.Path, help=".npy in the layout of `images`")
    options = parser.parse_args()
    images = np.load(options.images)[: options.limit]
    channels_first = images.shape[1:] == (3, SIZE, SIZE)
    if channels_first:
        images = images.transpose(0, 2, 3, 1)
    try:
        images = corrupt(images, options.corruption, options.severity, options.seed)
    except ValueError as error:
        raise SystemExit(f"{options.images}: {error}")
    np.save(options.out, np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if channels_first else images)


if __name__ == "__main__":
    main()
