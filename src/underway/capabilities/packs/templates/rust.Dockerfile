{{ marker }}rust
# Written once; yours to edit.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release{{ ' --locked' if locked }} --bin {{ binary }} && cp target/release/{{ binary }} /app

FROM debian:bookworm-slim
WORKDIR /app
COPY --from=build /app /app/app
{% for folder in assets %}
COPY {{ folder }} /app/{{ folder }}
{% endfor %}
ENV PORT={{ port }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
