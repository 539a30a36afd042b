{{ marker }}node
# Written once; yours to edit.
FROM node:18-slim AS build
WORKDIR /app
COPY {{ early | join(' ') }} ./
{% if install %}
RUN {{ install }}
{% endif %}
COPY . .
RUN {{ build }}

FROM nginx
COPY --from=build /app/{{ output }} /usr/share/nginx/html
{% if own_port %}
COPY .underway/nginx.conf /etc/nginx/conf.d/default.conf
{% endif %}
EXPOSE {{ port }}
