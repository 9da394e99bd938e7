# Debian's HAProxy, and socat to speak to its socket.
ARG BASE=debian:bookworm-slim
FROM $BASE
RUN apt-get update \
    && apt-get install --yes --no-install-recommends haproxy socat \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner haproxy /run/haproxy
USER haproxy
EXPOSE 8400
ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
