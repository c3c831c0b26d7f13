# The module in a stock nginx image, built for exactly the nginx of that image:
#   docker build -t sluice .                                        the image of nginx 1.28.3
#   docker build -t sluice --build-arg NGINX_IMAGE=debian:12 .      Debian, with Debian's nginx
#   docker run -p 8080:8080 sluice
# Any Debian-based image will do whose nginx has its headers in nginx-dev, or is the version that the nginx-src crate carries.

ARG NGINX_IMAGE=nginx:1.28.3
ARG RUST_IMAGE=rust:1.88-slim-bookworm

FROM ${RUST_IMAGE} AS rust

FROM ${NGINX_IMAGE} AS build
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
COPY scripts/lib.sh scripts/setup scripts/
COPY Cargo.toml ./
RUN scripts/setup --build
COPY . .
RUN install -D -m 644 "$(scripts/build | tail -n 1)" /out/ngx_http_sluice_module.so \
    && strip --strip-debug /out/ngx_http_sluice_module.so \
    && sed 's/listen 127.0.0.1:8080;/listen 8080;/' nginx-conf/limit-local.conf > /out/nginx.conf

FROM ${NGINX_IMAGE}
# Debian's image has neither; the nginx images have both.
RUN if ! command -v nginx || ! command -v curl; then \
        apt-get update \
        && apt-get install -y --no-install-recommends nginx curl \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && ln -sf /dev/stdout /var/log/nginx/access.log \
    && ln -sf /dev/stderr /var/log/nginx/error.log
COPY --from=build /out/ngx_http_sluice_module.so /usr/lib/nginx/modules/
COPY --from=build /out/nginx.conf /etc/nginx/nginx.conf
RUN nginx -t
EXPOSE 8080
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD curl -fsS -o /dev/null http://127.0.0.1:8080/health
CMD ["nginx", "-g", "daemon off;"]
