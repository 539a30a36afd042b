{{ marker }}dotnet
# Written once; yours to edit.
FROM mcr.microsoft.com/dotnet/sdk:{{ version }} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.nuget/packages \
    dotnet publish {{ project }} --configuration Release --output /out

FROM mcr.microsoft.com/dotnet/{{ runtime }}:{{ version }}
WORKDIR /app
COPY --from=build /out .
ENV PORT={{ port }} ASPNETCORE_URLS=http://+:{{ port }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
