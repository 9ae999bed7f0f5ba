"""The auxiliary variational auto-encoder, AVAE (Maaløe et al. 2016, section 4.3).

    p(x, a, z) = p(x|z_1) p(z_1|z_2) ... p(z_L) prod_i p(a_i|z_i..z_L)
    q(a, z|x)  = q(a_1|x) q(z_1|a_1, x) prod_{i>1} q(a_i|a_{i-1}, x) q(z_i|a_i, z_{i-1})

The auxiliary a_i leave the generative model as it is and make the marginal q(z|x) a mixture.
"""

import keras

from tfhvae.models import parts
from tfhvae.models.deep import DenseHierarchy
from tfhvae.traces import Trace, draw


@keras.saving.register_keras_serializable(package="tfhvae")
class AVAE(DenseHierarchy):
    """Auxiliary VAE with L levels (Maaløe et al. 2016, Eqs. 19 and 20; for L = 1 with
    `auxiliary_given_x=True` Eq. 2).

    Args:
      event_shape: `(height, width, channels)`.
      auxiliary_dims: units of a1 ... aL.
      auxiliary_given_x: whether p(a_i|.) sees the image.
      **kwargs: as of `GaussianHierarchy`.

    Sites, in drawing order: `a1`, `z1`, `a2`, `z2`, ...
    """

    def __init__(
        self,
        event_shape,
        auxiliary_dims=(64, 32),
        auxiliary_given_x=False,
        latent_dims=(64, 32),
        hidden_units=(512, 256),
        name="avae",
        **kwargs,
    ):
        super().__init__(
            event_shape, latent_dims=latent_dims, hidden_units=hidden_units, name=name, **kwargs
        )
        if len(auxiliary_dims) != len(latent_dims):
            raise ValueError(
                "expected as many auxiliary_dims as latent_dims. "
                f"Received: auxiliary_dims={tuple(auxiliary_dims)}, latent_dims={tuple(latent_dims)}"
            )
        self.config |= {
            "auxiliary_dims": list(auxiliary_dims),
            "auxiliary_given_x": auxiliary_given_x,
        }
        self.auxiliary_dims = tuple(auxiliary_dims)
        self.auxiliary_given_x = auxiliary_given_x
        levels = range(len(latent_dims))
        self.q_a, self.p_a = (
            [self._joint_gaussian(auxiliary_dims[i], i, f"{side}_a{i + 1}") for i in levels]
            for side in ("q", "p")
        )
        self.q_z = [self._joint_gaussian(latent_dims[i], i, f"q_z{i + 1}") for i in levels]
        self.build_from_event_shape()

    def _joint_gaussian(self, units, level, name):
        return parts.ConditionalGaussian(
            units,
            [self.config["hidden_units"][level]] * 2,
            self.config["activation"],
            self.config["batch_normalization"],
            joint=True,
            name=name,
        )

    @property
    def noise_shapes(self):
        shapes = {}
        for i, (auxiliary, latent) in enumerate(zip(self.auxiliary_dims, self.latent_dims), 1):
            shapes |= {f"a{i}": (auxiliary,), f"z{i}": (latent,)}
        return shapes

    def trace(self, x, num_samples=1, noise=None, values=None, training=False):
        x, noise = self.images_and_noise(x, noise, num_samples)
        values, image = values or {}, parts.flatten_event(x)
        q, drawn = {}, {}

        def infer(site, layer, inputs):
            loc, scale = q[site] = layer(inputs, training=training)[0]
            drawn[site] = values[site] if site in values else loc + scale * noise[site]

        for i in range(len(self.latent_dims)):
            a, z = f"a{i + 1}", f"z{i + 1}"
            infer(a, self.q_a[i], [drawn[f"a{i}"], image] if i else [image])
            infer(z, self.q_z[i], [drawn[a], drawn[f"z{i}"] if i else image])
        sites = {}
        for i in range(len(self.latent_dims)):
            a, above = f"a{i + 1}", [drawn[z] for z in self.site_names[i:]]
            p_a = self.p_a[i](
                [*above, image] if self.auxiliary_given_x else above, training=training
            )
            sites[a] = draw(q[a], p_a[0], noise[a], values.get(a), closed_form_kl=False)
            z = self.site_names[i]
            p_z = self.prior(i, above[1] if len(above) > 1 else None, training)
            is_top = len(above) == 1
            sites[z] = draw(q[z], p_z, noise[z], values.get(z), closed_form_kl=is_top)
        return Trace(sites, log_px=self.decode(drawn, training).log_prob(x))
