# The service in a container. It is built in one image and runs in another, which has neither pip nor a compiler:
#   docker build --tag orchestrator-flows .
# 3.11 is what the tests run on.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/flows
# What we depend on changes seldom: a layer of its own.
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /tmp/dependencies.txt \
    && pip install hatchling \
    && pip --python /opt/flows/bin/python install --requirement /tmp/dependencies.txt
COPY README.md ./
COPY nodes/ nodes/
COPY graph/ graph/
COPY server/ server/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && pip --python /opt/flows/bin/python install --no-deps /tmp/wheel/*.whl

FROM python:${PYTHON}-slim
ENV PATH=/opt/flows/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLOWS_HOST=0.0.0.0 \
    FLOWS_DATA_DIR=/var/lib/flows
# A number, so that Kubernetes can see that it is not root. The archive's folder is made here because a named volume
# takes over the owner of what it is mounted on.
RUN groupadd --gid 10001 flows \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/flows --shell /usr/sbin/nologin flows \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/flows /var/lib/flows/archive
COPY --from=build /opt/flows /opt/flows
USER 10001:10001
WORKDIR /var/lib/flows
EXPOSE 8000
# Whether the process lives, not whether its store does: replacing it would not help the store.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; service = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('FLOWS_PORT', '8000')), timeout=3); service.request('GET', '/health'); sys.exit(service.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["flows"]
CMD ["serve"]
