"""Maps and masks on which pixel metrics go wrong if they can, and a slow AUPRO."""

import numpy as np
from scipy import ndimage


def cases(seed=0, shape=(12, 32, 32)):
    """{name: (maps, masks)}; a third of the images is without a defect."""
    random = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(random.normal(size=shape), (0, 2, 2)) > 0.25
    masks[::3] = False
    maps = (random.gamma(3, 1, shape) + 2 * masks).astype(np.float32)
    outlier = maps.copy()
    outlier[1, 3, 4] = 100 * maps.max()
    # All but a thousandth of the scores lie closer to 1 than a bin of any histogram of them is wide.
    narrow = np.where(random.random(shape) < 1e-3, 1000 * maps, 1 + 1e-5 * maps).astype(np.float32)
    pixel = np.arange(maps.size).reshape(shape) == maps.size // 2 + 5
    return {
        "random": (maps, masks),
        "float64": (random.gamma(3, 1, shape) + 2 * masks, masks),
        "float16": (maps.astype(np.float16), masks),
        "tied": (np.floor(maps), masks),
        "integers": (np.floor(maps).astype(np.int32) - 4, masks.astype(np.uint8)),
        "constant": (np.full(shape, 2.5, np.float32), masks),
        "two values": ((maps > 3).astype(np.float32), masks),
        "skewed": (np.exp(4 * maps), masks),
        "outlier": (outlier, masks),
        "narrow": (narrow, masks),
        "upside down": (-maps, masks),
        "perfect": (masks.astype(np.float32), masks),
        "signed zeros": (np.where(maps > 3, np.float32(0), np.float32(-0.0)), masks),
        "one defect pixel": (maps, pixel),
        "one normal pixel": (maps, ~pixel),
    }


def slow_aupro(maps, masks, fpr_limit=0.3):
    """By the definition: at every distinct threshold the overlap of every region and the FPR."""
    structure = np.ones((3, 3), int)
    regions = []
    for map_, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure)
        regions += [map_[labels == label] for label in range(1, count + 1)]
    normal = np.asarray(maps)[np.asarray(masks) == 0]
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append((normal >= threshold).mean())
        y.append(np.mean([(region >= threshold).mean() for region in regions]))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(zip(x, y, strict=True), list(zip(x, y, strict=True))[1:], strict=False):
        if x1 > fpr_limit and x0 < fpr_limit:
            y1 = y0 + (y1 - y0) * (fpr_limit - x0) / (x1 - x0)
            x1 = fpr_limit
        if x1 <= fpr_limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / fpr_limit
