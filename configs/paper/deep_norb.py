"""Deep VAEs and ladders on small NORB, 32x32 (Sønderby et al. 2016a, b): log-densities.

    python run_experiment.py --config=configs/paper/deep_norb.py:ladder_vae-3 --data_dir=DIR

Variants: vae-L, vae_bn-L, vae_bn_wu-L, ladder_vae-L and prob_ladder-L with L = 1 to 5 layers. A
Gaussian output and tanh. Each variant has the settings of the paper whose number stands beside it:
of 2016a a learning rate of 0.002, warm-up over 1000 of 4000 epochs; of 2016b (ladder_vae) 0.001 and
200 of 2000.

Time on two cores: not measured; about 4 s an epoch by its size. Expected: log-densities of
3400 to 3500 nats for the variants with batch normalisation and warm-up; how the papers' images were
resized is not known, and a density depends on it.
"""

from tfhvae.configuration import DEEP_VARIANTS, sonderby

# 64, 64-32, ... , 64-32-16-8-4
_TABLES = {
    "vae": ((2630.8, 2830.8, 2757.5, 2832.0, 3064.1), "Sønderby et al. 2016a"),
    "vae_bn": ((3263.7, 3140.1, 3247.3, 3302.3, 3258.7), "Sønderby et al. 2016a"),
    "vae_bn_wu": ((3481.5, 3532.9, 3346.7, 3393.6, 3393.6), "Sønderby et al. 2016a"),
    "ladder_vae": ((None, 3272.0, 3519.0, 3449.0, 3455.0), "Sønderby et al. 2016b"),
    "prob_ladder": ((None, 3522.7, 3458.7, 3499.4, 3430.3), "Sønderby et al. 2016a"),
}
PUBLISHED = {
    f"{name}-{layers}": (value, _TABLES[name][1])
    for name in DEEP_VARIANTS
    for layers, value in enumerate(_TABLES[name][0], 1)
    if value is not None
}


def get_config(variant="ladder_vae-5"):
    is_2016b = variant.startswith("ladder_vae")
    epochs, warmup_epochs, learning_rate = (2000, 200, 1e-3) if is_2016b else (4000, 1000, 2e-3)
    config = sonderby(variant, "small_norb", epochs, warmup_epochs, published=PUBLISHED)
    config.model.activation = "tanh"
    config.optimizer.learning_rate = learning_rate
    config.published.protocol = "not comparable: the papers do not say how images were resized"
    return config
