{{ marker }}java
# Written once; yours to edit.
FROM {{ builder }} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target={{ home }} {{ build }}

FROM eclipse-temurin:{{ version }}-jre
WORKDIR /app
COPY --from=build /src/{{ output }} {{ '/app' if output.endswith('quarkus-app') else '/app/app.jar' }}
ENV PORT={{ port }}{{ ' %s=%s' % (port_variable, port) if port_variable != 'PORT' }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
