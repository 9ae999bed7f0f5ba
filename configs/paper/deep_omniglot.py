"""Deep VAEs and ladders on OMNIGLOT (Sønderby et al. 2016a, b): the tables' four columns.

    python run_experiment.py --config=configs/paper/deep_omniglot.py:ladder_vae-3 --data_dir=DIR
    python run_experiment.py --config=configs/paper/deep_omniglot.py:ladder_vae-3 --data_dir=DIR \
        --dataset=omniglot_resized

Variants: vae-L, vae_bn-L, vae_bn_wu-L, ladder_vae-L and prob_ladder-L with L = 1 to 5 layers. The
published numbers are those of Burda's 28x28 images (`omniglot`); `omniglot_resized` makes 28x28
images from the 105x105 originals, with which they do not compare.

Time on two cores: about 3 s an epoch at the speed of MNIST, 1500 epochs. Expected: -102.2 nats
(ladder_vae-3), -102.5 (vae_bn_wu-3), -101.3 (prob_ladder-3).
"""

from tfhvae.configuration import DEEP_VARIANTS, sonderby

# 64, 64-32, ... , 64-32-16-8-4
_TABLES = {
    "vae": ((-111.21, -110.58, -111.26, -111.58, -110.46), "Sønderby et al. 2016b"),
    "vae_bn": ((-105.62, -105.51, -106.09, -105.66, -105.45), "Sønderby et al. 2016b"),
    "vae_bn_wu": ((-104.51, -102.61, -102.52, -102.66, -102.48), "Sønderby et al. 2016b"),
    "ladder_vae": ((None, -102.63, -102.18, -102.21, -102.11), "Sønderby et al. 2016b"),
    "prob_ladder": ((None, -102.12, -101.26, -101.27, -101.59), "Sønderby et al. 2016a"),
}
PUBLISHED = {
    f"{name}-{layers}": (value, _TABLES[name][1])
    for name in DEEP_VARIANTS
    for layers, value in enumerate(_TABLES[name][0], 1)
    if value is not None
}


def get_config(variant="ladder_vae-5"):
    config = sonderby(variant, "omniglot", epochs=1500, published=PUBLISHED)
    config.published.protocol = "Burda's 28x28 images"
    return config
