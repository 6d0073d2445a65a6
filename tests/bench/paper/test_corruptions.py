"""The corruptions: form, seeds, strength, and what each recipe's numbers say must come out."""
import numpy as np
import pytest

import corruptions
import image_filters as filters
from corruptions import NAMES, RECIPES, SEVERITIES, corrupt


def textures(n=24):
    """Smooth shapes with edges, of every brightness, uint8 [n, 32, 32, 3]."""
    random = np.random.default_rng(1)
    images = np.stack([np.stack([filters.plasma(32, 1.7, random) for _ in range(3)], -1) for _ in range(n)])
    images[:, 8:20, 10:26] = images[:, 8:20, 10:26] * 0.4 + 0.6 * random.random((n, 1, 1, 3))
    return np.uint8(np.rint(255 * images))


IMAGES = textures()
GREY = np.full((64, 32, 32, 3), 128, np.uint8)


def damage(images, name, severity):
    return np.abs(corrupt(images, name, severity).astype(float) - images).mean()


@pytest.mark.parametrize("name", NAMES)
def test_has_the_form_of_the_images_and_the_draws_of_its_seed(name):
    few = IMAGES[:4]
    out = corrupt(few, name, 3, seed=7)
    assert out.dtype == np.uint8 and out.shape == few.shape
    assert np.any(out != few)
    assert np.array_equal(out, corrupt(few, name, 3, seed=7))
    assert np.array_equal(out[2:], corrupt(few[2:], name, 3, seed=7, first=2))
    drawn = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.any(out != corrupt(few, name, 3, seed=8)) == drawn


# Published strengths of these do not only grow: glass changes two things in turn, frost takes away light as it adds ice,
# elastic shrinks its affine map as it grows rougher.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("glass_blur", "frost", "elastic_transform")])
def test_damage_grows_with_severity(name):
    by_severity = [damage(IMAGES, name, severity) for severity in SEVERITIES]
    growth = np.diff(by_severity)
    if name == "motion_blur":
        growth = np.delete(growth, 2)  # 3 to 4 only makes the trail longer, where half a Gaussian is 0 to rounding
    assert all(growth > 0), by_severity


def test_damage_of_the_others_grows_where_their_recipe_does():
    assert damage(IMAGES, "glass_blur", 5) > damage(IMAGES, "glass_blur", 3)
    assert damage(IMAGES, "frost", 2) > damage(IMAGES, "frost", 1)
    roughness = [np.abs(np.diff(corrupt(IMAGES, "elastic_transform", s).astype(float), axis=1)).mean() for s in (3, 4, 5)]
    assert all(np.diff(roughness) > 0), roughness


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_variance_of_its_recipe(severity):
    (sigma,) = RECIPES["gaussian_noise"][1][severity - 1]
    noise = corrupt(GREY, "gaussian_noise", severity) / 255.0 - 128 / 255
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert abs(noise.mean()) < 4 * sigma / np.sqrt(noise.size)

    (photons,) = RECIPES["shot_noise"][1][severity - 1]
    counts = corrupt(GREY, "shot_noise", severity) / 255.0
    assert counts.var() == pytest.approx(128 / 255 / photons, rel=0.03)  # Poisson: the variance of counts is their mean

    (amount,) = RECIPES["impulse_noise"][1][severity - 1]
    impulses = corrupt(GREY, "impulse_noise", severity)
    error = 4 * np.sqrt(amount / impulses.size)
    assert np.mean(impulses != 128) == pytest.approx(amount, abs=error)
    assert np.mean(impulses == 255) == pytest.approx(amount / 2, abs=error)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_leave_flat_images_alone_and_means_nearly(name, severity):
    assert np.abs(corrupt(GREY[:2], name, severity).astype(int) - 128).max() <= 1
    inside = (slice(None), slice(10, 22), slice(10, 22))
    white_dot = np.zeros((8, 32, 32, 3), np.uint8)
    white_dot[inside] = 255
    before, after = white_dot.mean(), corrupt(white_dot, name, severity).mean()
    # Zooming in enlarges what is in the middle by the mean of its factors' squares; the others keep the sum of light.
    if name == "zoom_blur":
        (largest,) = RECIPES[name][1][severity - 1]
        factors = np.append(1 + 0.01 * np.arange(round((largest - 1) / 0.01)), 1)
        before *= np.mean(factors**2)
    assert after == pytest.approx(before, rel=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_and_brightness_are_their_formulas(severity):
    middle = IMAGES // 2 + 64  # neither is clipped below
    out = corrupt(middle, "contrast", severity)
    (share,) = RECIPES["contrast"][1][severity - 1]
    assert np.allclose(out.mean((1, 2)), middle.mean((1, 2)), atol=0.6)
    assert out.std((1, 2)) / middle.std((1, 2)) == pytest.approx(share, rel=0.06)

    (more,) = RECIPES["brightness"][1][severity - 1]
    out = corrupt(middle, "brightness", severity)
    value = np.minimum(middle.max(-1) / 255 + more, 1)
    assert np.abs(out.max(-1) / 255 - value).max() < 0.003
    assert corrupt(np.zeros((1, 32, 32, 3), np.uint8), "brightness", severity) == pytest.approx(round(255 * more), abs=1)


def test_pixelate_keeps_no_more_pixels_than_its_recipe():
    out = corrupt(IMAGES[:1], "pixelate", 5)[0]
    assert len(np.unique(out.reshape(-1, 3), axis=0)) <= int(32 * 0.65) ** 2


def test_jpeg_is_what_pillow_writes_at_that_quality():
    smooth = np.uint8(np.linspace(0, 255, 32))[np.newaxis, :, np.newaxis, np.newaxis] * np.ones((1, 32, 32, 3), np.uint8)
    assert damage(smooth, "jpeg_compression", 5) < 3  # a ramp survives; textures do not
    assert damage(IMAGES, "jpeg_compression", 5) > 3


def test_fog_whitens_towards_its_cloud_and_keeps_the_largest_value():
    thickness = RECIPES["fog"][1][4][0]
    out = corrupt(IMAGES, "fog", 5) / 255.0
    brightest = IMAGES.max(axis=(1, 2, 3)) / 255.0
    assert np.all(out.max(axis=(1, 2, 3)) <= brightest + 0.003)
    # The image's own share of what is left.
    black = corrupt(np.zeros_like(IMAGES[:1]), "fog", 5)
    assert black.max() == 0  # scaled by the brightest value, which is 0
    assert out.std() < (IMAGES / 255.0).std() + thickness / (1 + thickness)


def test_plasma_is_rougher_for_smaller_decay_and_spans_0_to_1():
    clouds = {decay: [filters.plasma(32, decay, np.random.default_rng(i)) for i in range(8)] for decay in (1.75, 3)}
    rough = {decay: np.mean([np.abs(np.diff(c)).mean() for c in many]) for decay, many in clouds.items()}
    assert rough[1.75] > 1.3 * rough[3]
    assert all(c.min() == 0 and c.max() == 1 and c.shape == (32, 32) for many in clouds.values() for c in many)


def test_motion_leaves_a_trail_of_its_length_on_one_side():
    dot = np.zeros((32, 32, 3))
    dot[16, 16] = 1
    trail = filters.motion_blur(dot, 6, 2.0, 0)
    assert np.flatnonzero(trail[16, :, 0]).tolist() == list(range(4, 17))  # 2 radius + 1 pixels that look to the right
    assert trail[16, 15, 0] / trail[16, 16, 0] == pytest.approx(np.exp(-0.125))


def test_elastic_moves_no_further_than_its_recipe():
    # At severity 1 three points move by up to 2.56 pixels; the corner of the image, 1.6 times as far out, by up to 2.2 times that.
    ramp = np.uint8(np.arange(32) * 8)[np.newaxis, np.newaxis, :, np.newaxis] * np.ones((16, 32, 32, 3), np.uint8)
    moved = (corrupt(ramp, "elastic_transform", 1).astype(float) - ramp)[:, 14:19, 14:19] / 8
    assert 0.2 < np.abs(moved).max() < 2 * 2.56


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((IMAGES, "rain", 1), "corruption: expected one of .*got 'rain'"),
        ((IMAGES, "fog", 0), "severity: expected 1 to 5, got 0"),
        ((IMAGES / 255, "fog", 1), "expected uint8 .*got float64"),
        ((IMAGES[:, :28, :28], "fog", 1), r"got uint8 \[24, 28, 28, 3\]"),
    ],
)
def test_says_what_was_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(*arguments)


def test_command_line_keeps_the_layout_of_its_file(tmp_path, monkeypatch):
    np.save(tmp_path / "in.npy", IMAGES[:3].transpose(0, 3, 1, 2))
    command = f"corruptions.py {tmp_path}/in.npy --corruption snow --severity 2 --seed 4 --out {tmp_path}/out.npy --limit 2"
    monkeypatch.setattr("sys.argv", command.split())
    corruptions.main()
    assert np.array_equal(np.load(tmp_path / "out.npy"), corrupt(IMAGES[:2], "snow", 2, seed=4).transpose(0, 3, 1, 2))
