# The image holds one static binary and the folder of its data, nothing else: no shell, no package, no user but a number.
#
#   docker build -t ringlog .
#   docker run --rm -p 9092:9092 -v ringlog:/var/lib/ringlog \
#     -e KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:9092 \
#     --security-opt seccomp=deploy/docker/seccomp.json --ulimit memlock=-1 ringlog
#
# Docker's own seccomp profile refuses io_uring (since version 25): without the security option the broker runs on epoll, says
# so at its start, and keeps every promise. The profile named above allows io_uring and far less than Docker's own otherwise.
# Registered buffers count as locked memory: hence the ulimit, without which disk writes cost more CPU.
#
# With a binary built outside (static: cargo rustc --release --bin ringlog -- -C target-feature=+crt-static), from a folder that
# holds it and nothing else, so that nothing is pulled:
#
#   DOCKER_BUILDKIT=1 docker build -t ringlog --build-arg BINARY=prebuilt -f Dockerfile FOLDER

ARG BINARY=build

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The flag is for the last step alone: build scripts and procedural macros must stay dynamic.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo rustc --release --locked --bin ringlog -- -C target-feature=+crt-static \
 && mkdir -p /image/var/lib/ringlog \
 && cp target/release/ringlog /image/ringlog \
 && strip /image/ringlog

FROM scratch AS prebuilt
WORKDIR /image/var/lib/ringlog
COPY ringlog /image/ringlog

FROM ${BINARY} AS chosen

FROM scratch
# A number, since there is no /etc/passwd to look a name up in.
COPY --from=chosen --chown=10001:10001 /image/ /
USER 10001:10001
ENV KAFKA_LOG_DIRS=/var/lib/ringlog
VOLUME /var/lib/ringlog
# Kafka clients; the web UI, REST and metrics.
EXPOSE 9092 9000
STOPSIGNAL SIGTERM
# Asks the first listener that the environment configures for the cluster's brokers.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["/ringlog", "health"]
ENTRYPOINT ["/ringlog"]
CMD ["serve"]
