"""Deep VAEs and ladders on OMNIGLOT (Sønderby et al. 2016a, b): the tables' four columns.

    python run_experiment.py --config=configs/paper/deep_omniglot.py:ladder_vae-3 --data_dir=DIR
    python run_experiment.py --config=configs/paper/deep_omniglot.py:ladder_vae-3 --data_dir=DIR \
        --dataset=omniglot_resized

Variants: vae-L, vae_bn-L, vae_bn_wu-L, ladder_vae-L and prob_ladder-L with L = 1 to 5 layers. Beside
the VAEs stand the numbers of 2016b; vae-L-2016a and so on are the same runs beside those of 2016a.
The published numbers are those of Burda's 28x28 images (`omniglot`); `omniglot_resized` makes 28x28
images from the 105x105 originals, with which they do not compare.

Time on two cores: 3 s (one layer) to 8 s (five) an epoch beside another run, 1500 epochs. Expected:
-102.2 nats (ladder_vae-3), -102.5 (vae_bn_wu-3), -101.3 (prob_ladder-3).
"""

from tfhvae.configuration import sonderby

# (name, what follows the layers in a variant, paper): 64, 64-32, ... , 64-32-16-8-4
_TABLES = {
    ("vae", "", "2016b"): (-111.21, -110.58, -111.26, -111.58, -110.46),
    ("vae_bn", "", "2016b"): (-105.62, -105.51, -106.09, -105.66, -105.45),
    ("vae_bn_wu", "", "2016b"): (-104.51, -102.61, -102.52, -102.66, -102.48),
    ("ladder_vae", "", "2016b"): (None, -102.63, -102.18, -102.21, -102.11),
    ("prob_ladder", "", "2016a"): (None, -102.12, -101.26, -101.27, -101.59),
    ("vae", "-2016a", "2016a"): (-114.45, -112.60, -112.13, -112.49, -112.10),
    ("vae_bn", "-2016a", "2016a"): (-108.79, -106.86, -107.09, -107.66, -107.94),
    ("vae_bn_wu", "-2016a", "2016a"): (-104.63, -102.03, -101.60, -101.68, -101.86),
}
PUBLISHED = {
    f"{name}-{layers}{suffix}": (value, f"Sønderby et al. {paper}")
    for (name, suffix, paper), values in _TABLES.items()
    for layers, value in enumerate(values, 1)
    if value is not None
}


def get_config(variant="ladder_vae-5"):
    config = sonderby(variant, "omniglot", epochs=1500, published=PUBLISHED)
    config.published.protocol = "Burda's 28x28 images"
    return config
