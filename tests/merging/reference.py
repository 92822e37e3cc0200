"""All methods once more in float64 numpy, as their papers write them: one tensor."""

import numpy as np


def norm(x):
    return np.sqrt(np.sum(x * x))


def angle(u, v):
    """Between unit vectors, exact also where they are nearly parallel or opposite."""
    return 2 * np.arctan2(norm(u - v), norm(u + v))


def linear(xs, w):
    return np.tensordot(
        np.asarray(w, float), np.stack([x.astype(float) for x in xs]), 1
    )


def slerp(xs, t):
    a, b = (x.astype(float) for x in xs)
    if not norm(a) or not norm(b):
        return (1 - t) * a + t * b
    theta = angle(a / norm(a), b / norm(b))
    if abs(np.cos(theta)) > 0.9995:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def multi_slerp(xs, w, compat="none"):
    xs = [x.astype(float) for x in xs]
    lengths = [norm(x) for x in xs]
    units = [x / n if n else x for x, n in zip(xs, lengths, strict=True)]
    mean = linear(units, w)
    if norm(mean) ** 2 <= 0.00025:
        return linear(xs, w)
    mean /= norm(mean)
    average = np.dot(w, lengths)
    if compat == "mergekit":
        return average * mean
    tangent = np.zeros_like(mean)
    for u, x in zip(units, w, strict=True):
        if not norm(u):
            continue
        theta = angle(u, mean)
        if np.cos(theta) < -0.9995:
            return linear(xs, w)
        along = u - np.sum(u * mean) * mean
        tangent += x * along * (theta / np.sin(theta) if theta else 1.0)
    length = norm(tangent)
    step = np.sin(length) / length * tangent if length else tangent
    return average * (np.cos(length) * mean + step)


def task_arithmetic(base, xs, w):
    base = base.astype(float)
    return base + linear([x - base for x in xs], w)


def trim(change, density):
    """The largest magnitudes of a change; the others are 0."""
    count = min(max(round(float(np.float32(density)) * change.size), 1), change.size)
    smallest = np.sort(np.abs(change), axis=None)[-count]
    return np.where(np.abs(change) >= smallest, change, 0)


def ties(base, xs, w, density, scale):
    # Changes are float32 by definition: what is equal there stays together.
    changes = [trim(x - base, density).astype(float) for x in xs]
    return agreed(base, changes, w, scale)


def agreed(base, changes, w, scale):
    elected = np.sign(linear(changes, w))
    total, share = np.zeros(base.shape), np.zeros(base.shape)
    for change, x in zip(changes, w, strict=True):
        agrees = (np.sign(x * change) == elected) & (x * change != 0)
        total += np.where(agrees, x * change, 0)
        share += np.where(agrees, abs(x), 0)
    mean = np.divide(total, share, out=np.zeros(base.shape), where=share != 0)
    return base + scale * mean
