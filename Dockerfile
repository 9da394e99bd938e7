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
    && rm -rf /var/lib/apt/lists/* \
    && dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' git > /opt/copied
ARG PIP_INDEX_URL
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python3 -m venv pip && python3 -m venv --without-pip /opt/hubmirror
COPY requirements-slim.txt ./
RUN pip/bin/pip --python /opt/hubmirror/bin/python install --require-hashes -r requirements-slim.txt
COPY pyproject.toml README.md LICENSE ./
COPY mirror mirror
RUN pip/bin/pip --python /opt/hubmirror/bin/python install --no-build-isolation --no-deps . \
    && find /opt/hubmirror -name '*.so' -size +1M -exec strip --strip-unneeded {} +

# Debian's git depends on perl, which none of the commands that the mirror runs needs.
FROM certified AS programs
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcurl3-gnutls openssh-client rsync \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10400 --create-home --home-dir /var/lib/hubmirror hubmirror
COPY --from=build /usr/bin/git /usr/bin/
COPY --from=build /usr/lib/git-core/git-remote-http /usr/lib/git-core/git-remote-https /usr/lib/git-core/
COPY --from=build /usr/share/git-core/templates /usr/share/git-core/templates
COPY --from=build /opt/copied /usr/share/hubmirror/copied
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
RUN pip/bin/pip --python /opt/hubmirror/bin/python install --require-hashes -r requirements.txt

FROM programs AS full
COPY --from=build-full /opt/hubmirror /opt/hubmirror
RUN python3 /usr/share/hubmirror/sbom.py > /usr/share/hubmirror/sbom.cdx.json
USER hubmirror
