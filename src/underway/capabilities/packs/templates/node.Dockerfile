{{ marker }}node
# Written once; yours to edit.
FROM node:18-slim
{% if user %}
# The application may write into its own directory and nowhere else.
RUN install -d -o {{ user }} -g {{ user }} /app
ENV HOME=/app
{% endif %}
WORKDIR /app
{% if install %}
COPY {{ early | join(' ') }} ./
RUN {{ install }}
{% endif %}
COPY {{ '--chown=%s:%s ' % (user, user) if user }}. .
{% if build %}
RUN {{ build }}{{ ' && ' + prune if prune }}
{% endif %}
ENV NODE_ENV=production PORT={{ port }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
