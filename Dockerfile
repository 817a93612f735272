# A static binary, the public certificate authorities, and nothing else.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/entrepot ./cmd/entrepot
# Folders that the daemon writes to; there is no shell later to make them.
RUN mkdir -p /out/cache /out/run

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/entrepot /usr/bin/entrepot
COPY --from=build --chown=65532:65532 /out/cache /var/cache/entrepot
COPY --from=build --chown=65532:65532 /out/run /run/entrepot
ENV CACHE_DIRECTORY=/var/cache/entrepot XDG_RUNTIME_DIR=/run
USER 65532:65532
VOLUME /var/cache/entrepot
EXPOSE 5000 5001
ENTRYPOINT ["/usr/bin/entrepot"]
CMD ["serve"]
