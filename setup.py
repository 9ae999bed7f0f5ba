"""Package metadata, in this one place."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="tfhvae",
    version="0.1.0",
    description="Hierarchical and semi-supervised variational auto-encoders in TensorFlow and Keras 3, next to their published numbers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["tfhvae", "tfhvae.*"]),
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.12,<3.16",
        "tensorflow-probability[tf]>=0.25,<0.26",
        "tensorflow-datasets>=4.9",
        "tensorboard>=2.20",
        "absl-py>=2.1",
        "ml_collections>=1.0",
        "importlib_resources",  # which tensorflow-datasets imports and does not declare
        "matplotlib>=3.9",
        "numpy>=1.26",
        "pillow>=10",
        "rich>=13",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "dev": [
            "build",
            "ipykernel",
            "nbclient",
            "nbformat",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff",
        ],
        "pv": ["pandas>=2.2", "pvlib>=0.11", "pyarrow>=16"],
    },
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
