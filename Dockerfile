ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build

ENV PIP_CACHE_DIR=/var/cache/pip \
    UV_CACHE_DIR=/var/cache/uv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never

# For `strip` below. Unpinned: it leaves nothing in the image but smaller files.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*

# The tools live apart from the environment that the image keeps.
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=bind,source=deploy/build-requirements.txt,target=/tmp/build-requirements.txt \
    python -m venv /opt/tools \
    && /opt/tools/bin/pip install --disable-pip-version-check --only-binary :all: \
        --require-hashes --requirement /tmp/build-requirements.txt

# Wheels come with debug symbols, a third of their size. Libraries that the wheels bundle
# (*.libs) were rewritten by patchelf, which `strip` can break, and gain nothing.
RUN --mount=type=cache,target=/var/cache/uv \
    --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \
    /opt/tools/bin/uv venv --python "$(command -v python)" /opt/venv \
    && /opt/tools/bin/uv pip install --python /opt/venv --only-binary :all: --no-deps \
        --require-hashes --requirements /tmp/requirements.txt \
    && find /opt/venv -name '*.libs' -prune -o -name '*.so' -type f \
        -exec strip --strip-unneeded {} +

WORKDIR /src
COPY pyproject.toml README.md ./
COPY service service
RUN /opt/tools/bin/uv build --wheel --no-build-isolation --python /opt/tools/bin/python \
        --out-dir /opt/dist


FROM ${PYTHON_IMAGE}

RUN groupadd --gid 10001 tidegate \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin tidegate

WORKDIR /app
COPY --from=build /opt/venv /opt/venv
# The tools are lent to this one step: it adds a layer with the service alone, which is all
# that a release pushes and pulls while the dependencies stay the same.
RUN --mount=type=bind,from=build,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=build,source=/opt/dist,target=/opt/dist \
    /opt/tools/bin/uv pip install --python /opt/venv --no-cache --compile-bytecode --no-deps \
        /opt/dist/*.whl
COPY --chmod=0644 deploy/gunicorn.conf.py deploy/gunicorn.conf.py

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENVIRONMENT=production \
    LOG_FORMAT=json \
    HOST=0.0.0.0 \
    PORT=8000

ARG VERSION=dev
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="A product catalog with an operable database layer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# No --start-interval: builders before Engine 25 refuse the flag.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["tidegate", "probe", "ready"]

CMD ["gunicorn", "--config", "/app/deploy/gunicorn.conf.py"]
