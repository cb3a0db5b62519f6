# Builds four images: api, uploader, processor-cpu, processor-gpu. docker-compose.yml builds and runs all of them:
#
#   docker build --target processor-gpu --tag uvr-api/processor-gpu .
#
# Needs BuildKit (Docker 23 or newer). Packages come from the indexes that pip and uv are configured with. Each package
# must have its hash in requirements/*.lock.
#
# The base images are pinned to versions. BUILD_DIGEST and RUNTIME_DIGEST pin them to their content as well:
#
#   docker build --build-arg BUILD_DIGEST=@sha256:... --build-arg RUNTIME_DIGEST=@sha256:... --target api .
#
# `docker buildx imagetools inspect IMAGE` prints the digest of an image, see docs/how-to/release.md.
ARG BUILD_DIGEST=
ARG RUNTIME_DIGEST=


# --- Virtual environments. The images contain only /opt/venv of these stages. ---

# Not the slim variant: diffq, a dependency of audio-separator, is built from source with a C compiler.
FROM python:3.11.15-bookworm${BUILD_DIGEST} AS build
# Byte code is validated by hash, not by date: layers may be rewritten with other dates.
ENV UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/venv
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    pip install --disable-pip-version-check --root-user-action=ignore --require-hashes -r /requirements/uv.lock \
    && uv venv --python /usr/local/bin/python3 /opt/venv

# Packages of every service; the api and the uploader need no others.
FROM build AS services
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --no-deps --require-hashes -r /requirements/service.lock

# The CPU builds of torch are a tenth of the size, but only PyTorch's own index has them and their hashes. It may have been
# unreachable when the locks were written (then there is no torch-cpu.lock), or is now: the dry run fails within seconds
# in that case. The builds with CUDA work on a CPU as well.
FROM services AS separation-cpu
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    if [ -f /requirements/torch-cpu.lock ] && UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 20 \
        uv pip install --no-deps --require-hashes --dry-run --torch-backend cpu -r /requirements/torch-cpu.lock; \
    then uv pip install --no-deps --require-hashes --torch-backend cpu -r /requirements/torch-cpu.lock; \
    else echo "the CPU builds of torch are unavailable: using those with CUDA" >&2 \
        && uv pip install --no-deps --require-hashes -r /requirements/torch-cuda.lock; \
    fi
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --no-deps --require-hashes \
        -r /requirements/separation.lock -r /requirements/onnxruntime-cpu.lock

# The CUDA libraries are in wheels, so that the base image needs none; the driver is the host's. onnxruntime and
# onnxruntime-gpu must not both be installed: they share a folder, and the model would run on the CPU.
FROM services AS separation-gpu
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --no-deps --require-hashes -r /requirements/torch-cuda.lock
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --no-deps --require-hashes \
        -r /requirements/separation.lock -r /requirements/onnxruntime-gpu.lock


# --- Images ---

FROM python:3.11.15-slim-bookworm${RUNTIME_DIGEST} AS runtime
LABEL org.opencontainers.image.title="UVR-API" \
      org.opencontainers.image.description="Self-hosted audio separation: a URL goes in, stems and a webhook come out." \
      org.opencontainers.image.licenses="MIT"
# The root file system can be mounted read-only: the services write to DATA_DIR, MODEL_FILE_DIR and /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data \
    MODEL_FILE_DIR=/models
# New volumes inherit the owner of the folder that they are mounted on.
RUN groupadd --gid 10001 uvr \
    && useradd --uid 10001 --gid uvr --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin uvr \
    && install --directory --owner uvr --group uvr /data /models
WORKDIR /app
STOPSIGNAL SIGTERM

# Code that the services share.
FROM runtime AS shared
COPY config.py ./
COPY settings/ settings/
COPY deploy/*.py deploy/
COPY pipeline/ pipeline/
# A private checkout (umask 077) must not result in an image that the service's user cannot read.
RUN chmod -R a+rX . && python -m compileall -q --invalidation-mode unchecked-hash .

FROM runtime AS api
COPY --link --from=services /opt/venv /opt/venv
COPY --link --from=shared /app /app
COPY api/ api/
# If anything is missing, the import fails during the build, not at the first start.
RUN chmod -R a+rX api && python -m compileall -q --invalidation-mode unchecked-hash api \
    && python -c "import api.__main__"
ENV API_HOST=0.0.0.0 \
    OPERATIONS_HOST=0.0.0.0 \
    API_PORT=8000
EXPOSE 8000
USER 10001:10001
# Checks that the service is alive, not that it is ready: an unreachable broker is no reason for a restart.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "deploy.probe", "/health", "API_PORT"]
ENTRYPOINT ["python", "-m", "api"]

FROM runtime AS uploader
COPY --link --from=services /opt/venv /opt/venv
COPY --link --from=shared /app /app
COPY uploader/ uploader/
RUN chmod -R a+rX uploader && python -m compileall -q --invalidation-mode unchecked-hash uploader \
    && python -c "import uploader.__main__"
ENV UPLOADER_HEALTH_HOST=0.0.0.0 \
    UPLOADER_HEALTH_PORT=8002
EXPOSE 8002
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "deploy.probe", "/health", "UPLOADER_HEALTH_PORT"]
ENTRYPOINT ["python", "-m", "uploader"]

FROM runtime AS processor
COPY --link --from=shared /app /app
COPY processor/ processor/
RUN chmod -R a+rX processor && python -m compileall -q --invalidation-mode unchecked-hash processor
# numba caches compiled functions beside their source or in the home directory, and fails if it can write to neither, as
# here. A cache on a volume survives the container and saves 15 s at the first song after a start.
# Official builds of onnxruntime send telemetry unless it is disabled.
ENV PROCESSOR_HEALTH_HOST=0.0.0.0 \
    PROCESSOR_HEALTH_PORT=8001 \
    NUMBA_CACHE_DIR=/data/numba \
    ORT_DISABLE_TELEMETRY=1
EXPOSE 8001
USER 10001:10001
# The processor answers when its model is loaded, which may include a download.
HEALTHCHECK --interval=30s --timeout=5s --start-period=1800s --retries=3 \
    CMD ["python", "-m", "deploy.probe", "/health", "PROCESSOR_HEALTH_PORT"]
ENTRYPOINT ["python", "-m", "processor"]

# The environment is a linked layer: a change of the sources before it does not rebuild its gigabytes.
FROM processor AS processor-cpu
COPY --link --from=separation-cpu /opt/venv /opt/venv
RUN ["python", "-c", "import processor.engine.engine, samplerate"]

FROM processor AS processor-gpu
COPY --link --from=separation-gpu /opt/venv /opt/venv
RUN ["python", "-c", "import processor.engine.engine, samplerate"]
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    REQUIRE_GPU=true
