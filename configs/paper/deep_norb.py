"""Deep VAEs and ladders on small NORB, 32x32 (Sønderby et al. 2016a, b): log-densities.

    python run_experiment.py --config=configs/paper/deep_norb.py:ladder_vae-3 --data_dir=DIR

Variants: vae-L, vae_bn-L, vae_bn_wu-L, ladder_vae-L and prob_ladder-L with L = 1 to 5 layers. A
Gaussian output and tanh. Each variant has the settings of the paper whose number stands beside it:
of 2016a a learning rate of 0.002, warm-up over 1000 of 4000 epochs; of 2016b (ladder_vae-L, and
vae-L-2016b, vae_bn-L-2016b and vae_bn_wu-L-2016b) 0.001 and 200 of 2000.

Time on two cores: not measured; about 4 s an epoch by its size. Expected: log-densities of
3400 to 3500 nats for the variants with batch normalisation and warm-up; the papers took images that
others had resized, how is not said, and a density depends on it.
"""

from tfhvae.configuration import sonderby

# (name, what follows the layers in a variant, paper): 64, 64-32, ... , 64-32-16-8-4
_TABLES = {
    ("vae", "", "2016a"): (2630.8, 2830.8, 2757.5, 2832.0, 3064.1),
    ("vae_bn", "", "2016a"): (3263.7, 3140.1, 3247.3, 3302.3, 3258.7),
    ("vae_bn_wu", "", "2016a"): (3481.5, 3532.9, 3346.7, 3393.6, 3393.6),
    ("prob_ladder", "", "2016a"): (None, 3522.7, 3458.7, 3499.4, 3430.3),
    ("ladder_vae", "", "2016b"): (None, 3272.0, 3519.0, 3449.0, 3455.0),
    ("vae", "-2016b", "2016b"): (2741.0, 2792.0, 2786.0, 2689.0, 2654.0),
    ("vae_bn", "-2016b", "2016b"): (3198.0, 3224.0, 3235.0, 3201.0, 3198.0),
    ("vae_bn_wu", "-2016b", "2016b"): (3338.0, 3483.0, 3492.0, 3482.0, 3422.0),
}
PUBLISHED = {
    f"{name}-{layers}{suffix}": (value, f"Sønderby et al. {paper}")
    for (name, suffix, paper), values in _TABLES.items()
    for layers, value in enumerate(values, 1)
    if value is not None
}


def get_config(variant="ladder_vae-5"):
    is_2016b = variant.startswith("ladder_vae") or variant.endswith("-2016b")
    epochs, warmup_epochs, learning_rate = (2000, 200, 1e-3) if is_2016b else (4000, 1000, 2e-3)
    config = sonderby(variant, "small_norb", epochs, warmup_epochs, published=PUBLISHED)
    config.model.activation = "tanh"
    config.optimizer.learning_rate = learning_rate
    config.published.protocol = "not comparable: the papers' images came resized, how is not said"
    return config
