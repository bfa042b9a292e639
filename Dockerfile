# The web and the worker process, from one image. The store is elsewhere: PLANWIRE_REDIS_URL.
#
#   docker build -t planwire .
#   docker run --env-file planwire.env -p 8000:8000 planwire                          # web
#   docker run --env-file planwire.env planwire python -m sync.worker                 # worker
#
# A tag can be moved, a digest cannot: look the tag's digest up once, and build on that (docs/operations.md).
#
#   BASE=python:3.12.14-slim-bookworm
#   DIGEST=$(docker buildx imagetools inspect "$BASE" | sed -n 's/^Digest: *//p')
#   docker build --build-arg BASE="$BASE@$DIGEST" -t planwire .

ARG BASE=python:3.12.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY locks/build.txt locks/production.txt locks/
# pip and the build backend stay behind in /opt/build.
RUN python -m venv /opt/build \
    && python -m venv --without-pip /opt/planwire \
    && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r locks/build.txt \
    && /opt/build/bin/python -m pip --python /opt/planwire/bin/python install --require-hashes --only-binary :all: -r locks/production.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY sync sync
COPY clients/python/planwire_client clients/python/planwire_client
COPY clients/js-snippet clients/js-snippet
COPY docs/asyncapi.json docs/openapi.json docs/
RUN /opt/build/bin/hatchling build -t wheel -d /opt/build/wheels \
    && /opt/build/bin/python -m pip --python /opt/planwire/bin/python install --no-index --no-deps /opt/build/wheels/planwire-*.whl \
    && /opt/planwire/bin/python -m compileall -q /opt/planwire/lib

FROM ${BASE}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin planwire
COPY --from=build /opt/planwire /opt/planwire
ENV PATH=/opt/planwire/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PLANWIRE_HOST=0.0.0.0 PORT=8000
USER 10001
WORKDIR /tmp
EXPOSE 8000
# SIGTERM drains: `docker stop --time` must be longer than PLANWIRE_DRAIN_S.
STOPSIGNAL SIGTERM
# Alive, not ready: a store that is away is no reason to restart. The worker serves no HTTP; give it --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/healthz\", timeout=2)"]
CMD ["python", "-m", "gateway.server"]
