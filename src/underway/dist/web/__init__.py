"""The web console's shell: login, sessions, navigation, live pages, and pages for every object."""
