"""An auxiliary variable fits two modes: variational inference of a density in the plane.

    python -m tfhvae.potential --out=runs/potential

There are no data. A Gaussian q(z|a), with a drawn from N(0, I), approximates p(z) = exp(-U(z)) / Z
by maximising

    log Z >= E_q [ -U(z) + log p(a|z) - log q(a) - log q(z|a) ]

(Maaløe et al. 2016, Eq. 18; U is that of Rezende and Mohamed 2015, see `two_mode_potential`).
Without `a`, q(z) is one Gaussian and fits one of the two modes, at least log 2 below
log Z.
"""

import argparse
import os
import sys

import numpy as np

from tfhvae import files
from tfhvae.errors import RunError
from tfhvae.progress import bar

HIDDEN_UNITS = (20, 20, 20)
START_TEMPERATURE = 2.0  # of U, falling to 1 in the first half of the steps
BATCH = 500
_DRAWS = 20_000


def log_normalizer(limit=8.0, cells=1600):
    """log Z of the potential, in nats, by the midpoint rule."""
    from tfhvae.data.generated import two_mode_potential

    centres = np.linspace(-limit, limit, cells, endpoint=False) + limit / cells
    u = two_mode_potential(np.stack(np.meshgrid(centres, centres), -1)).numpy()
    return float(np.log(np.exp(-u).sum() * (2 * limit / cells) ** 2))


class AuxiliaryPosterior:
    """q(a) q(z|a) and p(a|z), of which only the shapes of their Gaussians are fixed.

    Args:
      auxiliary_dim: units of a; 0 leaves one Gaussian q(z).
      seed: of the initial weights.
    """

    def __init__(self, auxiliary_dim=4, seed=0):
        import keras

        from tfhvae.models.parts import ConditionalGaussian

        if auxiliary_dim < 0:
            raise ValueError(
                f"expected auxiliary_dim to be at least 0. Received: {auxiliary_dim!r}"
            )
        keras.utils.set_random_seed(seed)
        self.auxiliary_dim = auxiliary_dim
        self.q_z = ConditionalGaussian(2, HIDDEN_UNITS, "relu", name="q_z")
        self.p_a = ConditionalGaussian(max(1, auxiliary_dim), HIDDEN_UNITS, "relu", name="p_a")
        self.q_z.build((None, max(1, auxiliary_dim)))
        self.p_a.build((None, 2))

    @property
    def variables(self):
        of_a = self.p_a.trainable_variables if self.auxiliary_dim else []
        return [*self.q_z.trainable_variables, *of_a]

    def trace(self, count, seed):
        """A record of `count` draws: -U(z) stands where a model has log p(x|.), so that every bound
        of `tfhvae.bounds` is one on log Z. `seed`: `[2]`."""
        import tensorflow as tf

        from tfhvae.data.generated import two_mode_potential
        from tfhvae.models.base import stateless_seed
        from tfhvae.traces import STANDARD_NORMAL, Trace, draw

        shape = [count, 1, max(1, self.auxiliary_dim)]
        noise_a = tf.random.stateless_normal(shape, stateless_seed(seed, 0))
        noise_z = tf.random.stateless_normal([count, 1, 2], stateless_seed(seed, 1))
        a = noise_a if self.auxiliary_dim else tf.zeros_like(noise_a)
        q_z = self.q_z(a)[0]
        z = draw(q_z, STANDARD_NORMAL, noise_z)
        sites = {"z": z._replace(log_p=tf.zeros_like(z.log_p))}  # which U has
        if self.auxiliary_dim:
            p_a = self.p_a(z.value)[0]
            sites = {"a": draw(STANDARD_NORMAL, p_a, noise_a, closed_form_kl=False), **sites}
        return Trace(sites, log_px=-two_mode_potential(z.value))


def fit(auxiliary_dim=4, steps=20000, seed=0, learning_rate=3e-3, progress=None):
    """A trained `AuxiliaryPosterior`.

    Args:
      progress: called after every so many steps, with their number.
    """
    import keras
    import tensorflow as tf

    from tfhvae import bounds
    from tfhvae.models.base import stateless_seed

    posterior = AuxiliaryPosterior(auxiliary_dim, seed)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(decay)
    optimizer.build(posterior.variables)
    chunk = max(1, steps // 40)

    @tf.function
    def update(first, count):
        for step in tf.range(first, first + count):
            share = tf.minimum(1.0, 2.0 * tf.cast(step, tf.float32) / steps)
            temperature = START_TEMPERATURE ** (1.0 - share)
            with tf.GradientTape() as tape:
                trace = posterior.trace(BATCH, stateless_seed(seed, 2, step))
                loss = -tf.reduce_mean(bounds.importance_weighted(trace, beta=temperature))
            optimizer.apply_gradients(
                zip(tape.gradient(loss, posterior.variables), posterior.variables)
            )

    for first in range(0, steps, chunk):
        count = min(chunk, steps - first)
        update(tf.constant(first), tf.constant(count))
        if progress is not None:
            progress(count)
    return posterior


def measure(posterior, seed=0):
    """What a posterior is worth.

    Returns:
      `(summary, samples)`: "bound", nats, its mean over draws; "bound_stderr"; "log_z"; "upper
      mode", the share of draws with z_2 > 0, one half under p; "total_variation", between a
      histogram of the draws and p on a grid of 40 by 40 cells; and the draws `[N, 2]`.
    """
    from tfhvae import bounds
    from tfhvae.data.generated import two_mode_potential
    from tfhvae.evaluation import mean_and_standard_error
    from tfhvae.models.base import stateless_seed

    trace = posterior.trace(_DRAWS, stateless_seed(seed, 3))
    mean, error = mean_and_standard_error(bounds.log_weights(trace)[:, 0])
    z = trace.sites["z"].value.numpy()[:, 0]
    edges = np.linspace(-4, 4, 41)
    fine = np.linspace(-4, 4, 400, endpoint=False) + 0.01  # ten by ten points for each cell
    density = np.exp(-two_mode_potential(np.stack(np.meshgrid(fine, fine), -1)).numpy())
    masses = density.reshape(40, 10, 40, 10).sum((1, 3))
    masses /= masses.sum()
    counts = np.histogram2d(z[:, 1], z[:, 0], bins=(edges, edges))[0] / len(z)
    summary = {
        "bound": mean,
        "bound_stderr": error,
        "log_z": log_normalizer(),
        "upper_mode": float(np.mean(z[:, 1] > 0)),
        "total_variation": float(0.5 * (np.abs(masses - counts).sum() + 1.0 - counts.sum())),
    }
    return summary, z


def run(out, seed=0, steps=20000, restarts=2):
    """Fits with and without `a`, from several initial weights each, of which the best bound counts,
    and writes `summary.json` and two figures into the folder `out`; returns the summary."""
    from tfhvae import experiments, plotting
    from tfhvae.data.generated import two_mode_potential

    if steps < 1 or restarts < 1:
        raise RunError(f"expected at least one step and one start, received: {steps}, {restarts}")
    os.makedirs(out, exist_ok=True)
    result = {"seed": seed, "steps": steps, "restarts": restarts, "commit": experiments.commit()}
    result["command"] = (
        f"python -m tfhvae.potential --seed={seed} --steps={steps} --restarts={restarts}"
    )
    progress = bar(2 * restarts * steps, "fitting the potential", "step")
    for name, dim in (("auxiliary", 4), ("one_gaussian", 0)):
        fits = []
        for start in range(restarts):
            posterior = fit(dim, steps, seed * 1000 + start, progress=progress.update)
            fits.append(measure(posterior, seed))
        summary, z = max(fits, key=lambda fitted: fitted[0]["bound"])
        result[name] = summary | {"bounds": [fitted[0]["bound"] for fitted in fits]}
        title = "q(z|a), a ~ N(0, I)" if dim else "one Gaussian q(z)"
        figure = plotting.density_2d(
            two_mode_potential, z, title=f"A density, and draws of {title}"
        )
        plotting.save(figure, os.path.join(out, f"{name}.png"))
    progress.close()
    files.write_json(os.path.join(out, "summary.json"), result)
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tfhvae.potential",
        description="Fits a density with two modes, with an auxiliary variable and without "
        "(Maaløe et al. 2016, figure 2).",
    )
    parser.add_argument("--out", default="runs/potential", help="folder for figures and summary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20000, help="updates for each fit")
    parser.add_argument("--restarts", type=int, default=2, help="initial weights tried; best kept")
    options = parser.parse_args(arguments)
    result = run(options.out, options.seed, options.steps, options.restarts)
    for name in ("auxiliary", "one_gaussian"):
        fitted = result[name]
        print(
            f"{name}: bound {fitted['bound']:.3f} ± {fitted['bound_stderr']:.3f} nats, "
            f"log Z {fitted['log_z']:.3f}; upper mode {100 * fitted['upper_mode']:.0f} %, "
            f"total variation {fitted['total_variation']:.2f}"
        )
    print(f"figures: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except (RunError, OSError) as mistake:
        sys.exit(f"error: {mistake}")
