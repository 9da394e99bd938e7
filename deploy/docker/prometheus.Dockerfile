# Debian's Prometheus.
ARG BASE=debian:bookworm-slim
FROM $BASE
RUN apt-get update \
    && apt-get install --yes --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner prometheus /var/lib/prometheus
USER prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus", "--storage.tsdb.path=/var/lib/prometheus"]
CMD ["--config.file=/etc/prometheus/hubmirror/prometheus.yml"]
