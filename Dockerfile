# PostgreSQL with lago_push, on top of the official image:
#
#   docker build --build-arg PG_MAJOR=15 -t postgres-lago_push .
#
# The official image, and so the headers that the extension is compiled with, come from apt.postgresql.org.
ARG PG_MAJOR=15
ARG RUST=1.95.0

FROM rust:${RUST}-bookworm AS rust

FROM postgres:${PG_MAJOR}-bookworm AS builder
ARG PG_MAJOR
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
WORKDIR /src
# Compiler, headers and cargo-pgrx, which change less often than the source.
COPY Cargo.toml rust-toolchain.toml ./
COPY scripts scripts
RUN scripts/prerequisites install "$PG_MAJOR"
COPY . .
RUN scripts/install "$PG_MAJOR"

FROM postgres:${PG_MAJOR}-bookworm
ARG PG_MAJOR
# The authorities by which Lago's certificate is checked. No version: Debian's archive keeps the latest only.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /usr/lib/postgresql/${PG_MAJOR}/lib/lago_push.so /usr/lib/postgresql/${PG_MAJOR}/lib/
COPY --from=builder /usr/share/postgresql/${PG_MAJOR}/extension/lago_push* /usr/share/postgresql/${PG_MAJOR}/extension/
# initdb makes postgresql.conf of it, so a container of a new volume is ready for "create extension lago_push".
RUN echo "shared_preload_libraries = 'lago_push'" >> /usr/share/postgresql/postgresql.conf.sample
