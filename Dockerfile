# The mirror, from Debian alone.
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python3 -m venv /opt/hubmirror
COPY requirements.txt ./
RUN /opt/hubmirror/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY mirror mirror
RUN /opt/hubmirror/bin/pip install --no-cache-dir --no-build-isolation --no-deps .

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client python3 rsync \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10400 --create-home --home-dir /var/lib/hubmirror hubmirror
COPY --from=build /opt/hubmirror /opt/hubmirror
USER hubmirror
WORKDIR /srv
ENV PATH=/opt/hubmirror/bin:$PATH \
    HUBMIRROR_HOST=0.0.0.0 \
    HUBMIRROR_DATA=/srv/data \
    HUBMIRROR_STATE=/var/lib/hubmirror/state
EXPOSE 8400
HEALTHCHECK CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8400/healthz', timeout=3)"]
ENTRYPOINT ["hubmirror"]
CMD ["serve"]
