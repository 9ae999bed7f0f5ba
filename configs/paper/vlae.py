"""Variational Ladder Autoencoders on MNIST, Fashion-MNIST, SVHN and CelebA (Zhao et al. 2017,
figures 5 to 7).

    python run_experiment.py --config=configs/paper/vlae.py:mnist --data_dir=DIR

Variants: mnist, fashion_mnist, svhn, celeba, with the paper's fixed-variance Gaussian, and each with
"-l1", the loss of the authors' code as a Laplace density. The variance is that of an older version
of that code, which has 4 (x - mu)² for MNIST and 16 (x - mu)² for SVHN and CelebA.

Time on two cores: with one of them 160 images/s (another program on the second) to 600, 2 to 6
minutes an epoch, for MNIST and Fashion-MNIST with 30 epochs.
Expected: the paper gives no number, only figures: traversals_random.png shows stroke width (z1),
width and tilt (z2) and identity (z3) of MNIST's digits; layer_resampling.png is figures 6 and 7.
"""

from tfhvae.configuration import base_config, check_name

# Latent units, trunk, filters, epochs, weight of the squared and of the absolute error of pixels in
# [0, 1]. The authors have CelebA in [-1, 1], with weights of 16 and 0.5: here 4 and 2 times those.
_SMALL = ((2, 2, 2), "conv_small", (64, 128, 1024), 30, 4.0, 8.0)
_DATA = {
    "mnist": _SMALL,
    "fashion_mnist": _SMALL,
    "svhn": ((5, 5, 5, 10), "conv_medium", (64, 128, 256, 1024), 30, 16.0, 8.0),
    "celeba": ((10, 10, 10, 10), "conv_medium", (64, 128, 256, 1024), 20, 64.0, 1.0),
}
VARIANTS = [f"{name}{loss}" for name in _DATA for loss in ("", "-l1")]


def get_config(variant="mnist"):
    check_name("variant", variant, VARIANTS)
    name, _, loss = variant.partition("-")
    latent_dims, trunk, filters, epochs, squared, absolute = _DATA[name]
    config = base_config("vlae", name)
    config.model.update(latent_dims=latent_dims, trunk=trunk, filters=filters)
    config.model.density = "laplace" if loss else "gaussian"
    config.model.output_scale = 1.0 / absolute if loss else (0.5 / squared) ** 0.5
    config.objective.kl = "analytic"
    config.objective.exponential_warmup_steps = 2000
    config.optimizer.learning_rate = 2e-4 if loss else 1e-4
    config.training.epochs = epochs
    config.evaluation.num_samples = 100
    if name in ("mnist", "fashion_mnist"):
        config.model.merge = "gated"
        config.dataset.split = "60k_10k"
    else:
        config.dataset.dequantization = "none"
    if name == "svhn":
        config.dataset.split = "604k_26k"
    if name == "celeba":
        config.dataset.crop = "108"
    config.published.source = "Zhao et al. 2017"
    config.published.protocol = "no number published, figures only"
    return config
