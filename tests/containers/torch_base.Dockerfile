# In place of NVIDIA's PyTorch, for tests: an image whose own Python has torch.
ARG BASE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3013,DL3042
RUN --mount=type=cache,id=sparkstack-pip,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    pip install --only-binary :all: --find-links /wheels torch==2.13.0
# As NVIDIA's has it: versions that no other package may change.
RUN pip freeze > /etc/pip-constraints.txt
ENV PIP_CONSTRAINT=/etc/pip-constraints.txt
