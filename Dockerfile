# The mirror, from Debian alone. `--target slim` is an image that serves, pulls and pushes; `full`
# also has BentoML and uv, for `hubmirror bento` and `hubmirror openllm`.
ARG BASE=debian:bookworm-slim

# A site's own package index is PIP_INDEX_URL; SITE_CERTIFICATES is the PEM text of its authorities.
FROM $BASE AS certified
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
ARG SITE_CERTIFICATES
RUN if [ -n "$SITE_CERTIFICATES" ]; then \
        printf '%s\n' "$SITE_CERTIFICATES" > /usr/local/share/ca-certificates/site.crt \
        && update-ca-certificates; \
    fi

FROM certified AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils git python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Debian's git depends on perl. The programs of git that the mirror runs do not.
RUN mkdir --parents /opt/git/usr/bin /opt/git/usr/lib/git-core /opt/git/usr/share/git-core \
        /opt/git/usr/share/hubmirror \
    && cp /usr/bin/git /opt/git/usr/bin \
    && cp --no-dereference /usr/lib/git-core/git-remote-http* /opt/git/usr/lib/git-core \
    && cp --recursive /usr/share/git-core/templates /opt/git/usr/share/git-core \
    && dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' git \
        > /opt/git/usr/share/hubmirror/copied
ARG PIP_INDEX_URL
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-build.txt requirements-slim.txt ./
RUN python3 -m venv --without-pip /opt/hubmirror && python3 -m venv tools \
    && tools/bin/pip install --require-hashes -r requirements-build.txt \
    && tools/bin/pip --python /opt/hubmirror/bin/python install --require-hashes -r requirements-slim.txt \
    && find /opt/hubmirror -name '*.so' -size +1M -exec strip --strip-unneeded {} +
COPY pyproject.toml README.md LICENSE ./
COPY mirror mirror
RUN tools/bin/pip wheel --no-build-isolation --no-deps --wheel-dir wheel . \
    && tools/bin/pip --python /opt/hubmirror/bin/python install --no-index --no-deps wheel/*.whl

FROM certified AS programs
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcurl3-gnutls openssh-client rsync \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10400 --create-home --home-dir /var/lib/hubmirror hubmirror
COPY --from=build /opt/git /
COPY deploy/docker/sbom.py /usr/share/hubmirror/
ENV PATH=/opt/hubmirror/bin:$PATH \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    HUBMIRROR_HOST=0.0.0.0 \
    HUBMIRROR_DATA=/srv/data \
    HUBMIRROR_STATE=/var/lib/hubmirror/state
WORKDIR /srv
EXPOSE 8400
HEALTHCHECK --interval=10s --timeout=5s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8400/healthz', timeout=3)"]
ENTRYPOINT ["hubmirror"]
CMD ["serve"]

FROM programs AS slim
COPY --from=build /opt/hubmirror /opt/hubmirror
RUN python3 /usr/share/hubmirror/sbom.py > /usr/share/hubmirror/sbom.cdx.json
USER hubmirror

FROM build AS build-full
COPY requirements.txt ./
RUN tools/bin/pip --python /opt/hubmirror/bin/python install --require-hashes -r requirements.txt

FROM programs AS full
COPY --from=build-full /opt/hubmirror /opt/hubmirror
RUN python3 /usr/share/hubmirror/sbom.py > /usr/share/hubmirror/sbom.cdx.json
USER hubmirror
