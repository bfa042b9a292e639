# The web and the worker process, from one image. The store is elsewhere: PLANWIRE_REDIS_URL.
#
#   docker build -t planwire .
#   docker run --env-file planwire.env -p 8000:8000 planwire                          # web
#   docker run --env-file planwire.env planwire python -m sync.worker                 # worker

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/planwire
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY sync sync
COPY clients/js-snippet clients/js-snippet
RUN /opt/planwire/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[paddle,outbox]' \
    && /opt/planwire/bin/pip uninstall --yes --quiet pip \
    && /opt/planwire/bin/python -m compileall -q /opt/planwire/lib

FROM python:3.12-slim-bookworm
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
