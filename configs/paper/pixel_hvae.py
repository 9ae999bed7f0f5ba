"""PixelHVAE on MNIST and OMNIGLOT (Tomczak & Welling 2018, tables 1 and 2).

    python run_experiment.py --config=configs/paper/pixel_hvae.py:dynamic_mnist_vampprior \
        --data_dir=DIR
    python run_experiment.py --config=configs/paper/pixel_hvae.py:dynamic_mnist_vampprior \
        --data_dir=DIR --mixed_precision --epochs=6 --config.objective.warmup_epochs=3 \
        --eval_samples=100 --config.evaluation.likelihood_images=1000

Variants: dynamic_mnist, static_mnist and omniglot, each also with _vampprior. Published: -79.70 and
-78.45 nats with a VampPrior (dynamic MNIST), -80.58 and -79.78 (static MNIST), -90.11 and -89.76
(OMNIGLOT).

Time with --mixed_precision: 9 minutes an epoch on one core (90 images/s), less on two cores, as the
pseudo-inputs pass through the encoder in every step; so days to early stopping. A GPU (--device=gpu)
makes it feasible. The second command is the budget of results/README.md. Expected on convergence:
within 0.5 nats of the published numbers.
"""

from tfhvae.configuration import check_name, tomczak_welling

PUBLISHED = {
    "dynamic_mnist": -79.70,
    "dynamic_mnist_vampprior": -78.45,
    "static_mnist": -80.58,
    "static_mnist_vampprior": -79.78,
    "omniglot": -90.11,
    "omniglot_vampprior": -89.76,
}


def get_config(variant="dynamic_mnist_vampprior"):
    check_name("variant", variant, PUBLISHED)
    dataset = variant.removesuffix("_vampprior")
    prior = "standard" if dataset == variant else "vampprior"
    return tomczak_welling("pixel_hvae", dataset, prior, PUBLISHED[variant])
