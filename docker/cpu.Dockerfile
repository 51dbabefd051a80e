# docker build -f docker/cpu.Dockerfile -t vivavoce .          from the root of the checkout; see docs/images.md
FROM python:3.11.11-slim-bookworm

# The constraints hold for the build environment too, which `pip install -c` does not reach.
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

WORKDIR /src
COPY constraints.txt ./
# torch goes first, and alone from its own index: the others come from the usual one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --index-url ${TORCH_INDEX} torch==2.13.0
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY vivavoce ./vivavoce
RUN pip install '.[wav2vec2]'

RUN useradd --create-home --uid 1000 vivavoce \
    && install --directory --owner=vivavoce --group=vivavoce /cache /work
USER vivavoce
ENV VIVAVOCE_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["vivavoce"]
CMD ["--help"]
