# MLflow, with the driver of Postgres. From the repository's root:
#     docker build -f services/tracking/mlflow.Dockerfile -t sparkstack/mlflow:dev .
ARG BASE=python:3.11-slim-bookworm

# What the lock names and nothing else: each file is checked against its hash, nothing is compiled from source.
# Nobody can write in the image, so bytecode is made here; it is tied to no time, and two builds make the same.
FROM ${BASE} AS packages
RUN --mount=type=cache,id=sparkstack-pip,target=/root/.cache/pip \
    --mount=type=bind,source=requirements/mlflow.lock,target=/tmp/packages.lock \
    python -m venv --without-pip /opt/sparkstack \
    && pip --python /opt/sparkstack/bin/python install --no-compile --no-deps --only-binary :all: --require-hashes \
        --requirement /tmp/packages.lock \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/sparkstack/lib

FROM packages AS code
COPY --chmod=0755 scripts/image/sparkstack /opt/sparkstack/bin/sparkstack
COPY services/__init__.py services/stack.py /srv/sparkstack/services/
COPY services/cli /srv/sparkstack/services/cli
COPY services/kit /srv/sparkstack/services/kit
COPY services/tracking /srv/sparkstack/services/tracking
RUN python -m compileall -q --invalidation-mode unchecked-hash /srv/sparkstack

FROM ${BASE}
# By hand, since `useradd` notes the day.
RUN echo 'sparkstack:x:10001:10001:sparkstack:/var/lib/sparkstack:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'sparkstack:x:10001:' >> /etc/group \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/sparkstack
COPY --from=packages /opt/sparkstack /opt/sparkstack
COPY --from=code /opt/sparkstack/bin/sparkstack /opt/sparkstack/bin/sparkstack
COPY --from=code /srv/sparkstack /srv/sparkstack
ENV PATH=/opt/sparkstack/bin:${PATH} \
    PYTHONPATH=/srv/sparkstack \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SPARKSTACK_STATE=/var/lib/sparkstack \
    MLFLOW_HOST=0.0.0.0
WORKDIR /srv/sparkstack
VOLUME /var/lib/sparkstack
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-m", "services.cli.healthcheck", "mlflow"]
ENTRYPOINT ["sparkstack"]
CMD ["mlflow"]
ARG VERSION=dev
LABEL org.opencontainers.image.title="sparkstack mlflow" \
    org.opencontainers.image.description="experiments, models, prompts, traces" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0"
