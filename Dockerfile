# syntax=docker/dockerfile:1
# The image of `penstock worker`, and of any other command of Penstock's, with all that predictions
# need. AWS Lambda runs functions from it as well: `python -m awslambdaric HANDLER`.
#
#   make image BASE=docker.io/library/python:3.13-slim-bookworm@sha256:…
#
# BASE has no default: it is named by digest, so that the same commit makes the same image, and
# which one is the choice of whoever builds. Your own jobs go on top:
#
#   FROM penstock
#   COPY shop.py /app/
#   CMD ["worker", "--app", "shop:app"]

ARG BASE

# ---------------------------------------------------------------- built here, left behind here
FROM ${BASE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python3 -m venv --without-pip /opt/penstock && python3 -m venv tools

# The dependencies before the code: they change less often.
COPY requirements/image.lock requirements/run.lock requirements/
RUN tools/bin/pip install --require-hashes --no-deps -r requirements/run.lock \
    && tools/bin/pip --python /opt/penstock install --require-hashes --no-deps --no-compile \
      -r requirements/image.lock

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir wheel . \
    && tools/bin/pip --python /opt/penstock install --no-index --no-deps --no-compile wheel/*.whl \
    && /opt/penstock/bin/python -m compileall -f -q --invalidation-mode unchecked-hash /opt/penstock

# ---------------------------------------------------------------- what runs
FROM ${BASE}

# What training a model needs of the system. The version is the one of the base, which is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# By number, which is what orchestrators check. It owns nothing, so it can change nothing.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock
COPY --from=build /opt/penstock /opt/penstock

ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PENSTOCK_LOG_FORMAT=json
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["penstock"]
CMD ["worker"]
