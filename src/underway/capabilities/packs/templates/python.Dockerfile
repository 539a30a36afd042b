{{ marker }}python
# Written once; yours to edit.
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT={{ port }}
{% if user %}
# The application may write into its own directory and nowhere else.
RUN install -d -o {{ user }} -g {{ user }} /app
ENV HOME=/app
{% endif %}
WORKDIR /app
{% if install_early %}
{% if early %}
COPY {{ early | join(' ') }} ./
{% endif %}
RUN {{ install_early }}
{% endif %}
COPY {{ '--chown=%s:%s ' % (user, user) if user }}. .
{% if install_late %}
RUN {{ install_late }}
{% endif %}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
