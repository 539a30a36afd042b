{{ marker }}go {{ go_package }}
# Written once; yours to edit. The binary is compiled anew by every `underway ship`.
FROM scratch
WORKDIR /app
COPY {{ binary }} /app/app
{% for folder in assets %}
COPY {{ folder }} /app/{{ folder }}
{% endfor %}
ENV PORT={{ port }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
