# The image holds one static binary and the folder of its data, nothing else.
#
#   docker build -t ringlog .
#   docker run --rm -p 9092:9092 -v ringlog:/var/lib/ringlog \
#     -e KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:9092 \
#     --security-opt seccomp=unconfined --ulimit memlock=-1 ringlog
#
# Docker's default seccomp profile refuses io_uring: hence the security option, or a profile that allows the io_uring_* calls.
# Registered buffers count as locked memory: hence the ulimit.
# The broker says so at its start, with an exit code of its own, when it may not use them.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# Naming the target keeps crt-static away from build scripts and procedural macros, which must stay dynamic.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin ringlog --target "$target" \
 && mkdir -p /image/var/lib/ringlog \
 && cp "target/$target/release/ringlog" /image/ringlog \
 && strip /image/ringlog

FROM scratch
# A number, since there is no /etc/passwd to look a name up in.
COPY --from=build --chown=10001:10001 /image/ /
USER 10001:10001
ENV KAFKA_LOG_DIRS=/var/lib/ringlog
VOLUME /var/lib/ringlog
EXPOSE 9092
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ringlog"]
CMD ["serve"]
