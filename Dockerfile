# One image per service: docker build --target order-service .
#
# All binaries come from one build stage. Its caches (the crates, and cargo's target folder) live in BuildKit cache
# mounts: after an edit, cargo compiles what changed, as it does outside Docker. They need BuildKit, the default
# builder since Docker 23.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# librdkafka is compiled from source: g++, make, and the headers of zlib and OpenSSL are in the base image. zstd, snappy and
# lz4 come as source too.
# The mounts are not part of the image, so the binaries are copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --profile dist --locked --features service-runtime/kafka-tls \
        --bin order-service \
        --bin payment-service \
        --bin inventory-service \
        --bin saga-orchestrator \
        --bin kafka-init \
        --bin sagactl \
    && install -D --target-directory=/out \
        target/dist/order-service \
        target/dist/payment-service \
        target/dist/inventory-service \
        target/dist/saga-orchestrator \
        target/dist/kafka-init \
        target/dist/sagactl

# The same Debian as the build stage, so the same glibc. zlib is part of it; OpenSSL (for Kafka) and the certificates that
# are trusted are not. As packages, so that a scanner of images knows what is in it.
FROM debian:bookworm-slim AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app
# In a container nobody else can reach localhost.
ENV BIND_ADDRESS=0.0.0.0
USER 10001

FROM runtime AS kafka-init
COPY --from=build /out/kafka-init /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/kafka-init"]

FROM runtime AS sagactl
COPY --from=build /out/sagactl /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/sagactl"]

FROM runtime AS order-service
COPY --from=build /out/order-service /usr/local/bin/
EXPOSE 4001
ENTRYPOINT ["/usr/local/bin/order-service"]

FROM runtime AS payment-service
COPY --from=build /out/payment-service /usr/local/bin/
EXPOSE 4002
ENTRYPOINT ["/usr/local/bin/payment-service"]

FROM runtime AS inventory-service
COPY --from=build /out/inventory-service /usr/local/bin/
EXPOSE 4003
ENTRYPOINT ["/usr/local/bin/inventory-service"]

FROM runtime AS saga-orchestrator
COPY --from=build /out/saga-orchestrator /usr/local/bin/
EXPOSE 4000
ENTRYPOINT ["/usr/local/bin/saga-orchestrator"]
