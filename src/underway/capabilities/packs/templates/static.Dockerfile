{{ marker }}static
# Written once; yours to edit.
FROM nginx
{% if own_port %}
COPY .underway/nginx.conf /etc/nginx/conf.d/default.conf
{% endif %}
COPY {{ folder }} /usr/share/nginx/html
{% if own_port and folder == '.' %}
RUN rm -r /usr/share/nginx/html/.underway
{% endif %}
EXPOSE {{ port }}
