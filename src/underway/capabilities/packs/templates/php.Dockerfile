{{ marker }}php
# Written once; yours to edit.
{% if composer %}
FROM composer:2 AS vendor
WORKDIR /app
COPY {{ early | join(' ') }} ./
RUN composer install --no-dev --no-interaction --no-scripts --no-autoloader --ignore-platform-reqs
COPY . .
RUN composer dump-autoload --no-dev --optimize --no-scripts

{% endif %}
FROM php:8.2-apache
{% if extensions %}
RUN docker-php-ext-install {{ extensions | join(' ') }}
{% endif %}
{% if port != 80 %}
RUN sed -i 's/^Listen 80$/Listen {{ port }}/' /etc/apache2/ports.conf \
    && sed -i 's/:80>/:{{ port }}>/' /etc/apache2/sites-available/000-default.conf
{% endif %}
{% if folder != '.' %}
RUN sed -i 's#/var/www/html#/var/www/html/{{ folder }}#' /etc/apache2/sites-available/000-default.conf
{% endif %}
WORKDIR /var/www/html
COPY --chown=www-data:www-data {{ '--from=vendor /app' if composer else '.' }} .
ENV PORT={{ port }}
EXPOSE {{ port }}
CMD {{ command }}
