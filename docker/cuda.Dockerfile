# docker build -f docker/cuda.Dockerfile -t vivavoce:cuda .    from the root of the checkout; see docs/images.md
# CUDA comes with torch's wheels; the host gives the driver, through the NVIDIA Container Toolkit.
FROM python:3.11.11-slim-bookworm

# Triton compiles a small launcher for each kernel when it is first used.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The constraints hold for the build environment too, which `pip install -c` does not reach.
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /src
COPY constraints.txt ./
RUN pip install torch==2.13.0
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY vivavoce ./vivavoce
RUN pip install '.[wav2vec2]'

RUN useradd --create-home --uid 1000 vivavoce \
    && install --directory --owner=vivavoce --group=vivavoce /cache /work
USER vivavoce
ENV VIVAVOCE_CACHE=/cache \
    TRITON_CACHE_DIR=/cache/triton
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["vivavoce"]
CMD ["--help"]
