{{ marker }}ruby
# Written once; yours to edit.
FROM ruby:3.1
{% if user %}
# The application may write into its own directory and nowhere else.
RUN install -d -o {{ user }} -g {{ user }} /app
ENV HOME=/app
{% endif %}
WORKDIR /app
{% if early %}
COPY {{ early | join(' ') }} ./
ENV BUNDLE_WITHOUT=development:test{{ ' BUNDLE_DEPLOYMENT=1' if locked }}
RUN bundle install
{% endif %}
COPY {{ '--chown=%s:%s ' % (user, user) if user }}. .
{% if assets %}
RUN SECRET_KEY_BASE=unused RAILS_ENV=production bundle exec rails assets:precompile
{% endif %}
ENV RACK_ENV=production RAILS_ENV=production RAILS_LOG_TO_STDOUT=1 PORT={{ port }}
{% if user %}
USER {{ user }}:{{ user }}
{% endif %}
EXPOSE {{ port }}
CMD {{ command }}
