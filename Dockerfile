# Plumbrule in a container, installed by `make install` as anywhere else. It runs as a user without
# privileges, and everything that it writes goes to the volume /store.
#
#   docker build -t plumbrule .                                       # CPU
#   docker build -t plumbrule --build-arg TORCH_INDEX=<index of CPU builds> .   # without CUDA libraries
#   docker build -t plumbrule:cuda --build-arg FAISS=gpu .            # CUDA: torch and FAISS
#   docker run --rm -v plumbrule:/store plumbrule                     # the quickstart
#   docker run --rm --gpus all -v plumbrule:/store plumbrule:cuda runtime=gpu1
#
# A quota (--cpus=2) and a set of CPUs (--cpuset-cpus) are kept to: threads follow them. A folder of
# the host in place of the volume must be writable for user 1000, or for the user that --user names.

ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim

# What `make install` reads; FAISS is said here because no driver answers while an image is built.
ARG FAISS=cpu
ARG TORCH_INDEX=

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 plumbrule \
    && install --directory --owner=plumbrule --mode=0775 /project /store

USER plumbrule
WORKDIR /project
COPY --chown=plumbrule . .
RUN make install PYTHON=python FAISS=${FAISS} TORCH_INDEX=${TORCH_INDEX} \
    && rm -rf ~/.cache/pip

ENV PLUMBRULE_STORE=/store HF_HUB_OFFLINE=1 PATH=/project/.venv/bin:$PATH
VOLUME /store
WORKDIR /store
ENTRYPOINT ["plumbrule"]
