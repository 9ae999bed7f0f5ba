"""CaGeM on OMNIGLOT with 500 labels, ten of each of the 50 alphabets (Maaløe et al. 2017, table 3):
-100.86 nats.

    python run_experiment.py --config=configs/paper/cagem_omniglot.py --data_dir=DIR

Networks and training are those of MNIST, and, by the frequency of labelled images, the weight of
p(y|x)'s cross-entropy. The paper's images are Burda's; ours are 28x28 images made
from the 105x105 originals, which do not compare.

Time on two cores: about 5 minutes an epoch of 23,000 images with 50 classes, by its size; 1000 epochs.
Expected: not known for these images.
"""

from tfhvae.configuration import base_config


def get_config():
    config = base_config("cagem", "omniglot_resized")
    config.labels.num_labels = 500
    config.model.batch_normalization = "all"
    config.model.cascade_weight = 0.05
    config.objective.warmup_epochs = 100
    config.objective.class_warmup = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "step"
    config.optimizer.decay_epochs = 50
    config.training.epochs = 1000
    config.published.log_likelihood = -100.86
    config.published.source = "Maaløe et al. 2017"
    config.published.protocol = "Burda's 28x28 images: not comparable"
    return config
