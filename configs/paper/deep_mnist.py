"""Deep VAEs and ladders on MNIST (Sønderby et al. 2016a, b): figure 3, and -82.12 nats for the
Ladder VAE with five layers.

    python run_experiment.py --config=configs/paper/deep_mnist.py:ladder_vae-5 --data_dir=DIR

Variants: vae-L, vae_bn-L, vae_bn_wu-L, ladder_vae-L and prob_ladder-L with L = 1 to 5 layers. The
60,000 training images are binarised anew in every epoch, the test images once.

Time on two cores: about 7 s an epoch for five layers, 2000 epochs. Expected: -81.3 (ladder_vae-5;
-82.12 published). Published, and not run to the end here: -82.14 (vae_bn_wu-5; -82.74 for the best
VAE of 2016b), -81.87 (prob_ladder-5; -81.6 after 1000 epochs). The second stage is fine-tuning:

    python run_experiment.py --initial_run=runs/deep_mnist-ladder_vae-5-seed0 --epochs=2000 \
        --config.optimizer.schedule=step --config.objective.num_importance=10 \
        --config.published.log_likelihood=-81.74 --config.published.source="Sønderby et al. 2016b"

Published after it: -81.74 (ladder_vae-5), -81.35 (prob_ladder-5; -81.20 with num_samples=10 as
well). Here, ten epochs with --config.optimizer.decay_epochs=1 took the 400 epochs of prob_ladder-5
from -82.5 to -81.6.
"""

from tfhvae.configuration import sonderby

PUBLISHED = {
    "ladder_vae-5": (-82.12, "Sønderby et al. 2016b"),
    "vae_bn_wu-5": (-82.14, "Sønderby et al. 2016a"),
    "prob_ladder-5": (-81.87, "Sønderby et al. 2016a"),
}


def get_config(variant="ladder_vae-5"):
    config = sonderby(variant, "dynamic_mnist", epochs=2000, published=PUBLISHED)
    config.dataset.split = "60k_10k"
    return config
